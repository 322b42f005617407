"""The losses of long-tailed classifiers by name."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt

from rfd_tf.losses.classification import (
    ClassBalancedLoss,
    CrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
)

CLASSIFIER_LOSSES = (
    "cross_entropy",
    "ldam",
    "ldam_drw",
    "focal",
    "class_balanced",
    "balanced_softmax",
    "logit_adjusted",
)
_WITHOUT_COUNTS = ("cross_entropy", "focal")


@dataclasses.dataclass(frozen=True)
class ClassifierLoss:
    """A loss and what it asks of the classifier.

    Attributes:
        name: one of `CLASSIFIER_LOSSES`.
        loss: takes integer labels [B] or soft ones [B, C], and [B, C] cosines or logits.
        cosine_head: whether it wants cosines (`rfd_tf.layers.CosineDense`), not a dense layer's logits.
        deferred_reweighting: whether `rfd_tf.callbacks.DeferredReweighting` belongs to it.
    """

    name: str
    loss: keras.losses.Loss
    cosine_head: bool = False
    deferred_reweighting: bool = False


def classifier_loss(
    name: str,
    class_counts: npt.ArrayLike,
    *,
    max_margin: float = 0.5,
    scale: float = 30.0,
    beta: float = 0.9999,
    focal_gamma: float = 2.0,
    tau: float = 1.0,
) -> ClassifierLoss:
    """A new loss.

    Args:
        name: one of `CLASSIFIER_LOSSES`.
        class_counts: [C] training images of each class.
        max_margin, scale: of `LDAMLoss`.
        beta: of `ClassBalancedLoss`. (That of deferred re-weighting is the callback's.)
        focal_gamma: of `FocalLoss`.
        tau: of `LogitAdjustedLoss`; the balanced softmax has 1.

    Raises:
        ValueError: on an unknown name, an option out of range, or, where the loss is made of the counts, a
            class without images.
    """
    if name not in CLASSIFIER_LOSSES:
        raise ValueError(
            f"A classifier's loss must be one of {', '.join(CLASSIFIER_LOSSES)}. Received: {name!r}"
        )
    if name not in _WITHOUT_COUNTS and (missing := np.flatnonzero(np.asarray(class_counts) == 0)).size:
        raise ValueError(
            f"The loss {name!r} needs training images of every class; class {missing[0]} has none"
            + (f", nor have {missing.size - 1} others" if missing.size > 1 else "")
        )
    match name:
        case "cross_entropy":
            return ClassifierLoss(name, CrossEntropyLoss())
        case "ldam" | "ldam_drw":
            loss = LDAMLoss(class_counts, max_margin, scale)
            return ClassifierLoss(name, loss, cosine_head=True, deferred_reweighting=name == "ldam_drw")
        case "focal":
            return ClassifierLoss(name, FocalLoss(focal_gamma))
        case "class_balanced":
            return ClassifierLoss(name, ClassBalancedLoss(class_counts, beta))
        case "balanced_softmax":
            return ClassifierLoss(name, LogitAdjustedLoss(class_counts, name="balanced_softmax_loss"))
        case _:
            return ClassifierLoss(name, LogitAdjustedLoss(class_counts, tau))


def classifier_loss_names(names: Sequence[str]) -> tuple[str, ...]:
    """`names`, with `"all"` spelled out and each once; unknown ones raise ValueError."""
    names = CLASSIFIER_LOSSES if "all" in names else tuple(dict.fromkeys(names))
    if not names:
        raise ValueError("`losses` is empty: name one, or 'all'")
    if unknown := [name for name in names if name not in CLASSIFIER_LOSSES]:
        raise ValueError(
            f"`losses` must be of {', '.join(CLASSIFIER_LOSSES)} or 'all'. Received: {unknown[0]!r}"
        )
    return names
