from collections.abc import Sequence

import keras
from keras import ops

from rfd_tf.imbalance import ldam_margins
from rfd_tf.losses.class_logits_loss import cross_entropy
from rfd_tf.losses.class_weighted_loss import ClassWeightedLoss


@keras.saving.register_keras_serializable(package="rfd_tf")
class LDAMLoss(ClassWeightedLoss):
    """Label-distribution-aware margin loss: cross-entropy of `scale * (cosine - margin on the true class)`.

    The margins grow as classes get rarer (`imbalance.ldam_margins`). Class weights start at 1;
    `rfd_tf.callbacks.DeferredReweighting` changes them late in training, without a retrace. Weights and
    reductions are those of `ClassWeightedLoss`. For a distribution q over the classes each class's margin is
    taken in proportion: cross-entropy with q of `scale * (cosine_j - q_j margin_j)`.

    Args:
        class_counts: [C] training examples per class, positive; fractions are allowed.
        max_margin: largest margin, that of the rarest class, in cosine; 0.5 in the paper, 0 for none.
        scale: s, positive; 30 in the paper.
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C), or [B, C] one-hot or soft labels.
        y_pred: [B, C] cosines, for example of `rfd_tf.layers.CosineDense`.
        sample_weight: optional [B].

    Raises:
        ValueError: on an argument out of range, where `y_pred` has not C columns, or on a label outside
            [0, C), as `ClassLogitsLoss` says.

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
        reduction: str = "sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(class_counts, name, reduction, dtype)
        if not 0 < scale < float("inf"):
            raise ValueError(f"`scale` must be positive and finite. Received: scale={scale}")
        self.max_margin = max_margin
        self.scale = scale
        self.margins = ldam_margins(self.class_counts, max_margin)

    def example_losses(self, shares, logits):
        margins = shares * ops.convert_to_tensor(self.margins, dtype=self.dtype)
        return cross_entropy(shares, self.scale * (logits - margins))

    def get_config(self):
        return {**super().get_config(), "max_margin": self.max_margin, "scale": self.scale}
