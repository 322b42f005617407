"""The figures of a classifier from its answers on the test images."""

from collections.abc import Mapping, Sequence

import numpy as np

from rfd_tf.evaluation.results import ClassifierFigures
from rfd_tf.imbalance import shot_groups

_TOP = 5


def classification_figures(
    labels: np.ndarray,
    answers: np.ndarray,
    class_counts: Sequence[int],
    extra: Mapping[str, float] | None = None,
) -> ClassifierFigures:
    """Accuracies and confusion of one classifier.

    Of classes with equal scores the one with the smaller number comes first, for the prediction and for the
    first five alike.

    Args:
        labels: [M] true classes, integers in [0, C).
        answers: [M, C] scores, higher for likelier classes, of any scale, -inf allowed; or [M] predicted
            classes.
        class_counts: [C] training images of each class, zero allowed.
        extra: further figures to keep.

    Raises:
        ValueError: on no test images, mismatched shapes, labels or predictions outside [0, C), or NaN scores.
    """
    from sklearn.metrics import confusion_matrix

    labels, answers = np.asarray(labels), np.asarray(answers)
    num_classes = len(class_counts)
    _check_classes("labels", labels, num_classes)
    has_scores = answers.ndim == 2
    if has_scores:
        _check_scores(answers, len(labels), num_classes)
    predicted = answers.argmax(axis=1) if has_scores else answers
    _check_classes("predictions", predicted, num_classes)
    if len(predicted) != len(labels):
        raise ValueError(f"There are {len(labels)} labels and {len(predicted)} predictions")

    confusion = confusion_matrix(labels, predicted, labels=np.arange(num_classes))
    images = confusion.sum(axis=1)
    per_class = np.divide(
        np.diag(confusion), images, out=np.full(num_classes, np.nan), where=images > 0, dtype="float64"
    )
    return ClassifierFigures(
        top1=float(np.mean(predicted == labels)),
        top5=_top_accuracy(labels, answers, _TOP) if has_scores and num_classes > _TOP else None,
        balanced_accuracy=float(np.nanmean(per_class)),
        per_class=[None if np.isnan(value) else float(value) for value in per_class],
        shot_groups={name: _mean(per_class[ids]) for name, ids in shot_groups(class_counts).items()},
        confusion=confusion.tolist(),
        extra=dict(extra or {}),
    )


def _top_accuracy(labels: np.ndarray, scores: np.ndarray, top: int) -> float:
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    classes = np.arange(scores.shape[1])
    ahead = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    return float(np.mean(ahead.sum(axis=1) < top))


def _mean(values: np.ndarray) -> float | None:
    """Mean of those that are numbers; None where there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def _check_classes(what: str, classes: np.ndarray, num_classes: int) -> None:
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"The {what} must be a vector of integers. Received: {classes.dtype} {classes.shape}"
        )
    if not len(classes):
        raise ValueError(f"There are no {what}: the test set is empty")
    outside = classes[(classes < 0) | (classes >= num_classes)]
    if outside.size:
        raise ValueError(f"The {what} must be in [0, {num_classes}). Received: {outside[0]}")


def _check_scores(scores: np.ndarray, images: int, num_classes: int) -> None:
    if scores.shape != (images, num_classes):
        raise ValueError(f"The scores must have shape {(images, num_classes)}. Received: {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"The scores of test image {np.isnan(scores).any(axis=1).argmax()} are not numbers")
