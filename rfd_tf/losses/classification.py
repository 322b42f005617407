"""Losses on logits or cosines [B, C] and classes: plain, LDAM, class-balanced, focal, logit-adjusted."""

import abc

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from rfd_tf.distribution import num_replicas, sum_over_replicas
from rfd_tf.imbalance import checked_class_counts, class_balanced_weights, ldam_margins
from rfd_tf.keras_internals import mask_of


class ClassLogitsLoss(keras.losses.Loss, abc.ABC):
    """Base of the losses on classes and one value per class [B, C]: checks both.

    Labels are integers [B] or [B, 1] in [0, C), or distributions over the classes [B, C]: one-hot, or soft as
    of mix-up. A one-hot row gives exactly what its integer gives.

    An integer outside [0, C) raises when run eagerly or on TensorFlow; where nothing can raise, on JAX and
    under `jit_compile=True`, the loss is NaN.

    Args:
        num_classes: C; None for any.
        name: the loss's name.
        reduction: as of `keras.losses.Loss`.
        dtype: what the loss computes in; by default `keras.config.floatx()`, whatever the dtype policy.
    """

    def __init__(
        self, num_classes: int | None, name: str, reduction: str = "sum_over_batch_size", dtype=None
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype or keras.config.floatx())
        self._num_classes = num_classes

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Keras casts labels to the loss's type, and bfloat16 has no 257.
        return super().__call__(self._shares(y_true, y_pred), y_pred, sample_weight)

    def call(self, y_true, y_pred):
        """Losses per example, [B], before class weights and the reduction."""
        return self.example_losses(self._shares(y_true, y_pred), ops.cast(y_pred, self.dtype))

    def _shares(self, y_true, y_pred):
        """Shares of the classes [B, C]; NaN for a label out of range, where that does not raise."""
        width, predicted = self._num_classes, tuple(ops.shape(y_pred))
        if len(predicted) != 2 or (width is not None and predicted[-1] != width):
            raise ValueError(f"`y_pred` must have shape [B, {width or 'C'}]. Received {predicted}")
        num_classes = predicted[-1]
        y_true = ops.convert_to_tensor(y_true)
        shape = tuple(y_true.shape)
        # Of a single class, [B, 1] may be either.
        whole = "int" in keras.backend.standardize_dtype(y_true.dtype)
        if len(shape) == 2 and shape[-1] == num_classes and not (num_classes == 1 and whole):
            return ops.cast(y_true, self.dtype)
        if len(shape) > 2 or (len(shape) == 2 and shape[-1] != 1):
            raise ValueError(
                "`y_true` must be integer labels [B] or [B, 1], or shares of the classes "
                f"[B, {num_classes}]. Received shape {shape}"
            )
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        in_range = ops.logical_and(labels >= 0, labels < num_classes)
        _require_in_range(type(self).__name__, in_range, labels, num_classes)
        one_hot = ops.one_hot(ops.where(in_range, labels, 0), num_classes, dtype=self.dtype)
        return ops.where(in_range[:, None], one_hot, float("nan"))

    @abc.abstractmethod
    def example_losses(self, shares, logits):
        """Losses [B] of `logits` [B, C] and shares of the classes [B, C], a one-hot row or a distribution."""

    def get_config(self):
        return {**super().get_config(), "dtype": keras.backend.standardize_dtype(self.dtype)}


@keras.saving.register_keras_serializable(package="rfd_tf")
class CrossEntropyLoss(keras.losses.SparseCategoricalCrossentropy):
    """Keras's cross-entropy of a softmax over logits, of integer labels and of soft ones.

    Args:
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C), or [B, C] one-hot or soft labels.
        y_pred: [B, C] logits.
        sample_weight: optional [B].
    """

    def __init__(self, name: str = "cross_entropy_loss", reduction: str = "sum_over_batch_size", dtype=None):
        super().__init__(from_logits=True, name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true, y_pred):
        """Losses per example, [B], before the reduction."""
        if has_shares(y_true, y_pred):
            return keras.losses.categorical_crossentropy(y_true, y_pred, from_logits=True)
        return super().call(y_true, y_pred)

    def get_config(self):
        base = keras.losses.Loss.get_config(self)  # logits are not a choice here
        return {**base, "dtype": keras.backend.standardize_dtype(self.dtype)}


def has_shares(labels, logits) -> bool:
    """Whether labels are shares of the classes [B, C], of as many as there are logits [B, C], at least 2."""
    shape = tuple(labels.shape)
    return len(shape) == 2 and shape[-1] == logits.shape[-1] > 1


def cross_entropy(shares, logits):
    """Cross-entropy [B] of a softmax and shares of the classes. Classes without a share may be -inf."""
    told = ops.sum(shares * _with_shares(shares, logits), axis=-1)
    return ops.sum(shares, axis=-1) * ops.logsumexp(logits, axis=-1) - told


def class_cross_entropies(shares, logits):
    """Minus the logarithm of each class's probability [B, C]; finite for classes without a share."""
    return ops.logsumexp(logits, axis=-1, keepdims=True) - _with_shares(shares, logits)


def _with_shares(shares, logits):
    """The logits, 0 for classes without a share: 0 times -inf is NaN."""
    return ops.where(shares == 0, 0.0, logits)


def _require_in_range(loss: str, in_range, labels, num_classes: int) -> None:
    """Raise on a label out of range where the backend can: not while JAX traces, nor under XLA."""
    message = f"{loss}: labels must be in [0, {num_classes}). Received:"
    backend = keras.backend.backend()
    if isinstance(labels, keras.KerasTensor):
        return
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            wrong = tf.boolean_mask(labels, tf.logical_not(in_range))
            tf.debugging.Assert(tf.reduce_all(in_range), [message, wrong])
            return
    elif backend == "jax":
        import jax

        if isinstance(labels, jax.core.Tracer):
            return
    in_range = ops.convert_to_numpy(in_range)
    if not in_range.all():
        raise ValueError(f"{message} {ops.convert_to_numpy(labels)[~in_range][0]}")


_MEANS = ("sum_over_batch_size", "mean")


class ClassWeightedLoss(ClassLogitsLoss):
    """Base of the losses with a weight for each class, which can change while training goes on.

    An example weighs as its class: `c_i`, for a distribution q over the classes the mean of their weights by
    q. Reductions are PyTorch's: `"none"` gives `c_i l_i`, `"sum"` their sum, and the mean
    `sum_i v_i c_i l_i / sum_i c_i`, with l the losses and v the sample weights. Sample weights scale losses
    without entering the divisor, as in Keras's `sum_over_batch_size`; masked examples enter neither. Under
    `tf.distribute` the divisor is that of the global batch. The divisor of `"mean_with_sample_weight"` is
    `sum_i v_i c_i`, of the replica's batch, as Keras has it.

    Args:
        class_counts: [C] training examples per class, positive; fractions are allowed.
        name: the loss's name.
        reduction, dtype: as of `ClassLogitsLoss`.

    Raises:
        ValueError: if a count is not positive.
    """

    def __init__(
        self, class_counts: npt.ArrayLike, name: str, reduction: str = "sum_over_batch_size", dtype=None
    ):
        self.class_counts = [float(count) for count in checked_class_counts(class_counts)]
        super().__init__(len(self.class_counts), name, reduction, dtype)
        self.class_weights = keras.Variable(
            [1.0] * self.num_classes, trainable=False, dtype=self.dtype, name="class_weights"
        )

    @property
    def num_classes(self) -> int:
        return len(self.class_counts)

    def reweight(self, beta: float) -> None:
        """Set the class weights to the class-balanced ones of `beta` in [0, 1); 0 sets them to 1."""
        self.class_weights.assign(class_balanced_weights(self.class_counts, beta).astype("float32"))

    def __call__(self, y_true, y_pred, sample_weight=None):
        shares = self._shares(y_true, y_pred)
        weights = ops.sum(shares * ops.cast(self.class_weights, self.dtype), axis=-1)
        if self.reduction in _MEANS:
            mean = _mean_over_replicas(weights, mask_of(y_pred))
            weights = ops.divide_no_nan(weights, mean)  # a mask may leave nothing of a batch
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight, dtype=self.dtype)
            weights = weights * ops.reshape(sample_weight, (-1,))
        return super().__call__(shares, y_pred, weights)

    def get_config(self):
        return {**super().get_config(), "class_counts": self.class_counts}


def _mean_over_replicas(weights, mask):
    """The mean by which `weights` are to be divided, so that Keras's own mean becomes the weighted one.

    Keras divides by this replica's examples, those that the mask keeps, and by the replicas, whose losses it
    adds up. Their common divisor is to be the sum of all weights.
    """
    kept = ops.ones_like(weights) if mask is None else ops.cast(mask, weights.dtype)
    total = sum_over_replicas(ops.sum(kept * weights)) / num_replicas()
    return ops.divide_no_nan(total, ops.sum(kept))


@keras.saving.register_keras_serializable(package="rfd_tf")
class LDAMLoss(ClassWeightedLoss):
    """Label-distribution-aware margin loss: cross-entropy of `scale * (cosine - margin on the true class)`.

    The margins grow as classes get rarer (`imbalance.ldam_margins`). Class weights start at 1;
    `rfd_tf.callbacks.DeferredReweighting` changes them late in training, without a retrace. Weights and
    reductions are those of `ClassWeightedLoss`. For a distribution q over the classes each class's margin is
    taken in proportion: cross-entropy with q of `scale * (cosine_j - q_j margin_j)`.

    Args:
        class_counts: [C] training examples per class, positive; fractions are allowed.
        max_margin: largest margin, that of the rarest class, in cosine; 0.5 in the paper, 0 for none.
        scale: s, positive; 30 in the paper.
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C), or [B, C] one-hot or soft labels.
        y_pred: [B, C] cosines, for example of `rfd_tf.layers.CosineDense`.
        sample_weight: optional [B].

    Raises:
        ValueError: on an argument out of range, where `y_pred` has not C columns, or on a label outside
            [0, C), as `ClassLogitsLoss` says.

    Example:
        >>> model.compile("sgd", loss=LDAMLoss(class_counts=[5000, 500, 50]))
        >>> model.fit(x, y, callbacks=[DeferredReweighting(start_epoch=160)])

    Reference: Cao et al., NeurIPS 2019, equations 10 to 13.
    """

    def __init__(
        self,
        class_counts: npt.ArrayLike,
        max_margin: float = 0.5,
        scale: float = 30.0,
        name: str = "ldam_loss",
        reduction: str = "sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(class_counts, name, reduction, dtype)
        if not 0 < scale < float("inf"):
            raise ValueError(f"`scale` must be positive and finite. Received: scale={scale}")
        self.max_margin = max_margin
        self.scale = scale
        self.margins = ldam_margins(self.class_counts, max_margin)

    def example_losses(self, shares, logits):
        margins = shares * ops.convert_to_tensor(self.margins, dtype=self.dtype)
        return cross_entropy(shares, self.scale * (logits - margins))

    def get_config(self):
        return {**super().get_config(), "max_margin": self.max_margin, "scale": self.scale}


@keras.saving.register_keras_serializable(package="rfd_tf")
class ClassBalancedLoss(ClassWeightedLoss):
    """Cross-entropy, each class weighted by the inverse of its effective number of examples.

    The weights are `imbalance.class_balanced_weights`; reductions are those of `ClassWeightedLoss`.

    Args:
        class_counts: [C] training examples per class, positive.
        beta: in [0, 1); 0 gives the plain cross-entropy.
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C), or [B, C] one-hot or soft labels.
        y_pred: [B, C] logits.
        sample_weight: optional [B].

    Raises:
        ValueError: on an argument out of range, and as `ClassLogitsLoss`.

    Reference: Cui et al., CVPR 2019, equation 8 and section 4.
    """

    def __init__(
        self,
        class_counts: npt.ArrayLike,
        beta: float = 0.9999,
        name: str = "class_balanced_loss",
        reduction: str = "sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(class_counts, name, reduction, dtype)
        self.beta = beta
        self.reweight(beta)

    def example_losses(self, shares, logits):
        return cross_entropy(shares, logits)

    def get_config(self):
        return {**super().get_config(), "beta": self.beta}


@keras.saving.register_keras_serializable(package="rfd_tf")
class FocalLoss(ClassLogitsLoss):
    """Cross-entropy times `(1 - p) ** gamma`, p the probability of the true class: easy examples count less.

    Over a softmax, without the class weights alpha. For a distribution q over the classes it is
    `-sum_j q_j (1 - p_j) ** gamma log p_j`, as in Keras's `CategoricalFocalCrossentropy`, which clips
    probabilities and so stops the gradient of the hardest examples.

    Args:
        gamma: at least 0; 0 gives the plain cross-entropy, 2 is the paper's.
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C), or [B, C] one-hot or soft labels.
        y_pred: [B, C] logits.
        sample_weight: optional [B].

    Raises:
        ValueError: if `gamma` is negative or not finite, and as `ClassLogitsLoss`.

    Reference: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        name: str = "focal_loss",
        reduction: str = "sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(None, name, reduction, dtype)
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"`gamma` must be at least 0 and finite. Received: gamma={gamma}")
        self.gamma = gamma

    def example_losses(self, shares, logits):
        probabilities = ops.softmax(logits, axis=-1)
        likeliest = ops.one_hot(ops.argmax(probabilities, axis=-1), logits.shape[-1], dtype=self.dtype)
        # 1 - p; of the likeliest class the sum of the others', as the difference would be rounded away.
        rest = ops.sum((1.0 - likeliest) * probabilities, axis=-1, keepdims=True)
        others = likeliest * rest + (1.0 - likeliest) * (1.0 - probabilities)
        # The floor keeps the gradient of the power finite for gamma < 1.
        floor = 6e-8 if self.dtype == "float16" else 1e-37
        factors = ops.power(ops.maximum(others, floor), self.gamma)
        return ops.sum(shares * factors * class_cross_entropies(shares, logits), axis=-1)

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable(package="rfd_tf")
class LogitAdjustedLoss(ClassLogitsLoss):
    """Cross-entropy of `logits + tau * log(prior)`, so that the logits alone rank the classes as if even.

    With tau = 1 this is the balanced softmax: `log(n_j)` and `log(n_j / n)` differ by a constant, which a
    softmax does not see.

    Args:
        class_counts: [C] training examples per class, positive.
        tau: at least 0; 0 gives the plain cross-entropy.
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C), or [B, C] one-hot or soft labels.
        y_pred: [B, C] logits.
        sample_weight: optional [B].

    Raises:
        ValueError: on an argument out of range, and as `ClassLogitsLoss`.

    References: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, equation 10; Ren et al.,
        "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, equation 4.
    """

    def __init__(
        self,
        class_counts: npt.ArrayLike,
        tau: float = 1.0,
        name: str = "logit_adjusted_loss",
        reduction: str = "sum_over_batch_size",
        dtype=None,
    ):
        counts = checked_class_counts(class_counts)
        super().__init__(len(counts), name, reduction, dtype)
        if not 0 <= tau < float("inf"):
            raise ValueError(f"`tau` must be at least 0 and finite. Received: tau={tau}")
        self.class_counts = counts.tolist()
        self.tau = tau
        self.adjustment = tau * np.log(counts / counts.sum())

    @property
    def num_classes(self) -> int:
        return len(self.class_counts)

    def example_losses(self, shares, logits):
        return cross_entropy(shares, logits + ops.convert_to_tensor(self.adjustment, dtype=self.dtype))

    def get_config(self):
        return {**super().get_config(), "class_counts": self.class_counts, "tau": self.tau}


@keras.saving.register_keras_serializable(package="rfd_tf")
class MultiLabelLoss(keras.losses.Loss):
    """Sigmoid cross-entropy of images that show any number of classes.

    An image's loss is the sum over the classes, as published code has it, not their mean. A class of which
    it is not to be asked whether it is there adds nothing.

    Args:
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B, C], 1 where a class is in the image, -1 where it is not, 0 where that does not count (in
            PASCAL VOC: only difficult objects of it are there).
        y_pred: logits [B, C].

    Raises:
        ValueError: on shapes that differ.

    Reference: Krähenbühl et al., ICLR 2016, "Data-dependent initializations of CNNs", and its code.
    """

    def __init__(self, name: str = "multi_label_loss", reduction: str = "sum_over_batch_size", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype or keras.config.floatx())

    def call(self, y_true, y_pred):
        """Losses [B]."""
        if len(y_pred.shape) != 2 or tuple(y_true.shape[1:]) != tuple(y_pred.shape[1:]):
            raise ValueError(
                f"`y_true` and `y_pred` must be [B, C] both. Received: {y_true.shape}, {y_pred.shape}"
            )
        truth = ops.cast(y_true, self.dtype)
        # -log sigmoid(z) where the class is there, -log sigmoid(-z) where not.
        losses = ops.softplus(-truth * ops.cast(y_pred, self.dtype))
        return ops.sum(losses * ops.abs(truth), axis=-1)

    def get_config(self):
        return {**super().get_config(), "dtype": keras.backend.standardize_dtype(self.dtype)}
