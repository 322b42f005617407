from collections.abc import Sequence

import keras

from rfd_tf.losses.class_logits_loss import cross_entropy
from rfd_tf.losses.class_weighted_loss import ClassWeightedLoss


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
        class_counts: Sequence[float],
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
