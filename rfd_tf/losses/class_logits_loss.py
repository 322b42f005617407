import abc

import keras
from keras import ops

# The largest range of whole numbers that a type holds exactly. Keras casts labels to the loss's type.
_EXACT_LABELS = {"bfloat16": 256, "float16": 2048}


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
        exact = _EXACT_LABELS.get(keras.backend.standardize_dtype(self.dtype))
        if exact and num_classes and num_classes > exact:
            raise ValueError(
                f"`dtype` must hold {num_classes} classes exactly: {self.dtype} holds {exact}. Take float32"
            )

    def call(self, y_true, y_pred):
        """Losses per example, [B], before the reduction."""
        return self.unweighted(*self._checked(y_true, y_pred))

    def unweighted(self, shares, in_range, logits):
        """Losses [B] of checked classes and logits; NaN where a label is out of range."""
        return ops.where(in_range, self.example_losses(shares, logits), float("nan"))

    def _checked(self, y_true, y_pred):
        """(shares of the classes [B, C], whether each label is in range [B], logits [B, C])."""
        width = self._num_classes
        if len(y_pred.shape) != 2 or (width is not None and y_pred.shape[-1] != width):
            raise ValueError(f"`y_pred` must have shape [B, {width or 'C'}]. Received {y_pred.shape}")
        num_classes = y_pred.shape[-1]
        logits = ops.cast(y_pred, self.dtype)
        shape = tuple(ops.convert_to_tensor(y_true).shape)
        if len(shape) == 2 and shape[-1] == num_classes and num_classes > 1:
            return ops.cast(y_true, self.dtype), ops.ones_like(logits[:, 0], dtype="bool"), logits
        if len(shape) > 2 or (len(shape) == 2 and shape[-1] != 1):
            raise ValueError(
                "`y_true` must be integer labels [B] or [B, 1], or shares of the classes "
                f"[B, {num_classes}]. Received shape {shape}"
            )
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        in_range = ops.logical_and(labels >= 0, labels < num_classes)
        _require_in_range(type(self).__name__, in_range, labels, num_classes)
        return ops.one_hot(labels, num_classes, dtype=self.dtype), in_range, logits

    @abc.abstractmethod
    def example_losses(self, shares, logits):
        """Losses [B] of `logits` [B, C] and shares of the classes [B, C], a one-hot row or a distribution."""

    def get_config(self):
        return {**super().get_config(), "dtype": keras.backend.standardize_dtype(self.dtype)}


def cross_entropy(shares, logits):
    """Cross-entropy [B] of a softmax and shares of the classes. Classes without a share may be -inf."""
    told = ops.sum(ops.where(shares > 0, shares * logits, 0.0), axis=-1)
    return ops.sum(shares, axis=-1) * ops.logsumexp(logits, axis=-1) - told


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
