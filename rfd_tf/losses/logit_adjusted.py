from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from rfd_tf.imbalance import checked_class_counts
from rfd_tf.losses.class_logits_loss import ClassLogitsLoss, cross_entropy


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
        class_counts: Sequence[float],
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
