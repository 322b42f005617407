from collections.abc import Sequence

import keras
from keras import ops

from rfd_tf.distribution import num_replicas, sum_over_replicas
from rfd_tf.imbalance import checked_class_counts, class_balanced_weights, ldam_margins


@keras.saving.register_keras_serializable(package="rfd_tf")
class LDAMLoss(keras.losses.Loss):
    """Label-distribution-aware margin loss: cross-entropy of `scale * (cosine - margin on the true class)`.

    The margins grow as classes get rarer (`imbalance.ldam_margins`). Class weights start at 1;
    `rfd_tf.callbacks.DeferredReweighting` changes them late in training, without a retrace.

    Reduction: as PyTorch's weighted mean, `sum_i v_i c_i l_i / sum_i c_i`, with l the losses, c the class
    weights and v the sample weights. Sample weights scale losses without entering the divisor, as in Keras's
    `sum_over_batch_size`. Under `tf.distribute` the divisor is that of the global batch.

    Args:
        class_counts: [C] training examples per class, positive; fractions are allowed.
        max_margin: largest margin, that of the rarest class, in cosine; 0.5 in the paper.
        scale: s, positive; 30 in the paper.
        name: the loss's name.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C).
        y_pred: [B, C] cosines, for example of `rfd_tf.layers.CosineDense`.
        sample_weight: optional [B].

    Raises:
        ValueError: on an argument out of range, or where `y_pred` has not C columns. A label outside
            [0, C) raises when run eagerly or on TensorFlow; on JAX, which cannot raise, the loss is NaN.

    Example:
        >>> model.compile("sgd", loss=LDAMLoss(class_counts=[5000, 500, 50]))
        >>> model.fit(x, y, callbacks=[DeferredReweighting(start_epoch=160)])

    Reference: Cao et al., NeurIPS 2019, equations 10 to 13.
    """

    def __init__(
        self,
        class_counts: Sequence[float],
        max_margin: float = 0.5,
        scale: float = 30.0,
        name: str = "ldam_loss",
    ):
        super().__init__(name=name, reduction="sum_over_batch_size", dtype=keras.config.floatx())
        if not 0 < scale < float("inf"):
            raise ValueError(f"`scale` must be positive and finite. Received: scale={scale}")
        self.class_counts = [float(count) for count in checked_class_counts(class_counts)]
        self.max_margin = max_margin
        self.scale = scale
        self.margins = ldam_margins(self.class_counts, max_margin).astype(self.dtype)
        self.class_weights = keras.Variable(
            [1.0] * self.num_classes, trainable=False, dtype=self.dtype, name="class_weights"
        )

    @property
    def num_classes(self) -> int:
        return len(self.class_counts)

    def reweight(self, beta: float) -> None:
        """Set the class weights to the class-balanced ones of `beta` in [0, 1); 0 sets them to 1."""
        self.class_weights.assign(class_balanced_weights(self.class_counts, beta).astype(self.dtype))

    def call(self, y_true, y_pred):
        """Losses per example, [B], without class weights."""
        if len(y_pred.shape) != 2 or y_pred.shape[-1] != self.num_classes:
            raise ValueError(f"`y_pred` must have shape [B, {self.num_classes}]. Received {y_pred.shape}")
        labels = _flat_labels(y_true)
        in_range = ops.logical_and(labels >= 0, labels < self.num_classes)
        _require_in_range(in_range, labels, self.num_classes)
        true_class = ops.one_hot(labels, self.num_classes, dtype=self.dtype)
        logits = self.scale * (ops.cast(y_pred, self.dtype) - true_class * self.margins)
        losses = ops.logsumexp(logits, axis=-1) - ops.sum(true_class * logits, axis=-1)
        return ops.where(in_range, losses, float("nan"))

    def __call__(self, y_true, y_pred, sample_weight=None):
        losses = self.call(y_true, y_pred)
        # Clipped, so that a label out of range reaches the clear error of `call` and not one of `take`.
        labels = ops.clip(_flat_labels(y_true), 0, self.num_classes - 1)
        weights = ops.take(self.class_weights, labels, axis=0)
        divisor = sum_over_replicas(ops.sum(weights)) / num_replicas()
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        # Keras adds up the replicas' losses.
        return ops.sum(weights * losses) / divisor / num_replicas()

    def get_config(self):
        return {
            "class_counts": self.class_counts,
            "max_margin": self.max_margin,
            "scale": self.scale,
            "name": self.name,
        }


def _flat_labels(y_true):
    return ops.cast(ops.reshape(y_true, (-1,)), "int32")


def _require_in_range(in_range, labels, num_classes: int) -> None:
    """Raise on a label out of range where the backend can: not while JAX traces, nor under XLA."""
    message = f"LDAMLoss: labels must be in [0, {num_classes})"
    backend = keras.backend.backend()
    if isinstance(labels, keras.KerasTensor):
        return
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.executing_eagerly():
            tf.debugging.Assert(tf.reduce_all(in_range), [message, "Received:", labels])
            return
    elif backend == "jax":
        import jax

        if isinstance(labels, jax.core.Tracer):
            return
    in_range = ops.convert_to_numpy(in_range)
    if not in_range.all():
        raise ValueError(f"{message}. Received: {ops.convert_to_numpy(labels)[~in_range][0]}")
