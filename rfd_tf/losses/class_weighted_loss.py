from collections.abc import Sequence

import keras
from keras import ops

from rfd_tf.distribution import num_replicas, sum_over_replicas
from rfd_tf.imbalance import checked_class_counts, class_balanced_weights
from rfd_tf.losses.class_logits_loss import ClassLogitsLoss

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


class ClassWeightedLoss(ClassLogitsLoss):
    """Base of the losses with a weight for each class, which can change while training goes on.

    An example weighs as its class: `c_i`, for a distribution q over the classes the mean of their weights by
    q. Reductions are PyTorch's: `"none"` gives `c_i l_i`, `"sum"` their sum, and the mean
    `sum_i v_i c_i l_i / sum_i c_i`, with l the losses and v the sample weights. Sample weights scale losses
    without entering the divisor, as in Keras's `sum_over_batch_size`; masked examples enter neither. Under
    `tf.distribute` the divisor is that of the global batch.

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

    def call(self, y_true, y_pred):
        """Losses [B] before the reduction: `c_i l_i`; for a mean, over the mean weight of the examples."""
        shares, in_range, logits = self._checked(y_true, y_pred)
        losses = self.unweighted(shares, in_range, logits)
        weights = ops.sum(shares * ops.convert_to_tensor(self.class_weights), axis=-1)
        losses = weights * losses
        if self.reduction not in _MEANS:
            return losses
        mask = getattr(y_pred, "_keras_mask", None)
        mask = ops.ones_like(weights) if mask is None else ops.cast(mask, self.dtype)
        mean = sum_over_replicas(ops.sum(mask * weights)) / num_replicas()
        # Keras divides by the examples, and by the replicas, whose losses it adds up.
        return losses * (ops.sum(mask) / mean)

    def get_config(self):
        return {**super().get_config(), "class_counts": self.class_counts}
