from collections.abc import Sequence

import keras
from keras import ops

from rfd_tf.distribution import num_replicas, sum_over_replicas
from rfd_tf.imbalance import checked_class_counts, class_balanced_weights
from rfd_tf.losses.class_logits_loss import ClassLogitsLoss

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
        self, class_counts: Sequence[float], name: str, reduction: str = "sum_over_batch_size", dtype=None
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
            mean = _mean_over_replicas(weights, getattr(y_pred, "_keras_mask", None))
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
