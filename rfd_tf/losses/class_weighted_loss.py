from collections.abc import Sequence

import keras
from keras import ops

from rfd_tf.distribution import num_replicas, sum_over_replicas
from rfd_tf.imbalance import checked_class_counts, class_balanced_weights
from rfd_tf.losses.class_logits_loss import ClassLogitsLoss, flat_labels


class ClassWeightedLoss(ClassLogitsLoss):
    """Base of the losses with a weight for each class, which can change while training goes on.

    Reduction: as PyTorch's weighted mean, `sum_i v_i c_i l_i / sum_i c_i`, with l the losses, c the class
    weights and v the sample weights. Sample weights scale losses without entering the divisor, as in Keras's
    `sum_over_batch_size`. Under `tf.distribute` the divisor is that of the global batch.

    Args:
        class_counts: [C] training examples per class, positive; fractions are allowed.
        name: the loss's name.

    Raises:
        ValueError: if a count is not positive.
    """

    def __init__(self, class_counts: Sequence[float], name: str):
        self.class_counts = [float(count) for count in checked_class_counts(class_counts)]
        super().__init__(len(self.class_counts), name)
        self.class_weights = keras.Variable(
            [1.0] * self.num_classes, trainable=False, dtype=self.dtype, name="class_weights"
        )

    @property
    def num_classes(self) -> int:
        return len(self.class_counts)

    def reweight(self, beta: float) -> None:
        """Set the class weights to the class-balanced ones of `beta` in [0, 1); 0 sets them to 1."""
        self.class_weights.assign(class_balanced_weights(self.class_counts, beta).astype(self.dtype))

    def __call__(self, y_true, y_pred, sample_weight=None):
        losses = self.call(y_true, y_pred)
        # Clipped, so that a label out of range reaches the clear error of `call` and not one of `take`.
        labels = ops.clip(flat_labels(y_true), 0, self.num_classes - 1)
        weights = ops.take(self.class_weights, labels, axis=0)
        divisor = sum_over_replicas(ops.sum(weights)) / num_replicas()
        if sample_weight is not None:
            weights = weights * ops.reshape(ops.cast(sample_weight, self.dtype), (-1,))
        # Keras adds up the replicas' losses.
        return ops.sum(weights * losses) / divisor / num_replicas()
