"""The figures of a classifier that finds any number of classes in an image."""

from collections.abc import Mapping

import numpy as np

from rfd_tf.evaluation.results import MultiLabelFigures
from rfd_tf.metrics.voc_average_precision import RULES, image_precision_recall


def multi_label_figures(
    targets: np.ndarray, scores: np.ndarray, extra: Mapping[str, float] | None = None
) -> MultiLabelFigures:
    """Average precisions by either rule.

    Args:
        targets: [M, C], 1 where a class is in an image, -1 where not, 0 where that does not count.
        scores: [M, C], higher where a class is likelier; of any scale, compared within a class only.
        extra: further figures to keep.

    Raises:
        ValueError: on shapes that differ, scores that are not finite, or targets that show no class at all.
    """
    return figures_of(average_precisions(targets, scores), extra)


def average_precisions(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[rules, C] in the order of `RULES`; NaN for a class that no image shows. The rest as above."""
    targets, scores = np.asarray(targets), np.asarray(scores)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(f"`targets` and `scores` must be [M, C] both: {targets.shape}, {scores.shape}")
    found = [image_precision_recall(*columns) for columns in zip(scores.T, targets.T, strict=True)]
    if all(curve.num_positives == 0 for curve in found):
        raise ValueError("No test image shows any of the classes")
    return np.array([[curve.average_precision(rule) for curve in found] for rule in RULES])


def figures_of(precisions: np.ndarray, extra: Mapping[str, float] | None = None) -> MultiLabelFigures:
    """Figures of average precisions [rules, C]."""
    by_rule = dict(zip(RULES, precisions, strict=True))
    return MultiLabelFigures(
        mean_average_precision={rule: float(np.nanmean(values)) for rule, values in by_rule.items()},
        average_precision={rule: _or_none(values) for rule, values in by_rule.items()},
        extra=dict(extra or {}),
    )


def _or_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
