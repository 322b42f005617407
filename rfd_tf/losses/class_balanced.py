from collections.abc import Sequence

import keras

from rfd_tf.losses.class_logits_loss import cross_entropy
from rfd_tf.losses.class_weighted_loss import ClassWeightedLoss


@keras.saving.register_keras_serializable(package="rfd_tf")
class ClassBalancedLoss(ClassWeightedLoss):
    """Cross-entropy, each class weighted by the inverse of its effective number of examples.

    The weights are `imbalance.class_balanced_weights`; the reduction is that of `ClassWeightedLoss`,
    PyTorch's weighted mean.

    Args:
        class_counts: [C] training examples per class, positive.
        beta: in [0, 1); 0 gives the plain cross-entropy.
        name: the loss's name.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C).
        y_pred: [B, C] logits.
        sample_weight: optional [B].

    Raises:
        ValueError: on an argument out of range, and as `ClassLogitsLoss`.

    Reference: Cui et al., CVPR 2019, equation 8 and section 4.
    """

    def __init__(
        self, class_counts: Sequence[float], beta: float = 0.9999, name: str = "class_balanced_loss"
    ):
        super().__init__(class_counts, name)
        self.beta = beta
        self.reweight(beta)

    def example_losses(self, true_class, logits):
        return cross_entropy(true_class, logits)

    def get_config(self):
        return {"class_counts": self.class_counts, "beta": self.beta, "name": self.name}
