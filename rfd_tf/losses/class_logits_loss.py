import abc

import keras
from keras import ops


class ClassLogitsLoss(keras.losses.Loss, abc.ABC):
    """Base of the losses on integer labels [B] and one value per class [B, C]: checks both, in `floatx`.

    A label outside [0, C) raises when run eagerly or on TensorFlow; on JAX, which cannot raise, the loss is
    NaN.

    Args:
        num_classes: C; None for any.
        name: the loss's name.
    """

    def __init__(self, num_classes: int | None, name: str):
        super().__init__(name=name, reduction="sum_over_batch_size", dtype=keras.config.floatx())
        self._num_classes = num_classes

    def call(self, y_true, y_pred):
        """Losses per example, [B]; `y_true` may be [B, 1]."""
        width = self._num_classes
        if len(y_pred.shape) != 2 or (width is not None and y_pred.shape[-1] != width):
            raise ValueError(f"`y_pred` must have shape [B, {width or 'C'}]. Received {y_pred.shape}")
        num_classes = y_pred.shape[-1]
        labels = flat_labels(y_true)
        in_range = ops.logical_and(labels >= 0, labels < num_classes)
        _require_in_range(type(self).__name__, in_range, labels, num_classes)
        true_class = ops.one_hot(labels, num_classes, dtype=self.dtype)
        losses = self.example_losses(true_class, ops.cast(y_pred, self.dtype))
        return ops.where(in_range, losses, float("nan"))

    @abc.abstractmethod
    def example_losses(self, true_class, logits):
        """Losses [B] of one-hot classes [B, C] and `logits` [B, C]."""


def cross_entropy(true_class, logits):
    """Minus the logarithm of the softmax at the true class, [B]. Other classes may be ruled out by -inf."""
    of_true_class = ops.sum(ops.where(true_class > 0, logits, 0.0), axis=-1)
    return ops.logsumexp(logits, axis=-1) - of_true_class


def flat_labels(y_true):
    """Labels as int32 [B]."""
    return ops.cast(ops.reshape(y_true, (-1,)), "int32")


def _require_in_range(loss: str, in_range, labels, num_classes: int) -> None:
    """Raise on a label out of range where the backend can: not while JAX traces, nor under XLA."""
    message = f"{loss}: labels must be in [0, {num_classes})"
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
