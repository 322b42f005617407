import abc

import keras
from keras import ops


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
