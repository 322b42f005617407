import numpy as np

from rfd_tf.evaluation.results import EvaluationResult
from rfd_tf.report.contents import ClassifierSection, KeyFigure
from rfd_tf.report.evaluations import best_linear, best_linear_of_control


def key_figures(
    history: dict[str, np.ndarray] | None,
    knn: ClassifierSection | None,
    knn_control: float | None,
    evaluations: dict[str, EvaluationResult],
) -> list[KeyFigure]:
    """The headline: rotation accuracy from either half, kNN, the best linear probe."""
    history = history or {}
    prefix = "val_" if "val_rotation_accuracy" in history else ""
    images = "validation" if prefix else "training"
    figures = [
        KeyFigure(
            "Rotation from rotation features",
            _last(history, f"{prefix}rotation_accuracy"),
            None,
            f"{images} images, last epoch; chance is 25 %",
        ),
        KeyFigure(
            "Rotation from invariant features",
            _last(history, f"{prefix}invariant_rotation_accuracy"),
            None,
            "near chance (25 %) where the two halves are decoupled",
        ),
    ]
    if knn is None:
        figures.append(KeyFigure("Classes by kNN", None, None, "needs labelled pictures that can be read"))
    else:
        meaning = f"{knn.title}, {knn.test_images} images"
        figures.append(KeyFigure("Classes by kNN", knn.figures.top1, knn_control, meaning))
    return [*figures, _probe_figure(evaluations)]


def _last(history: dict[str, np.ndarray], column: str) -> float | None:
    values = history.get(column, np.array([]))
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None


def _probe_figure(evaluations: dict[str, EvaluationResult]) -> KeyFigure:
    if (best := best_linear(evaluations)) is None:
        return KeyFigure("Best linear probe", None, None, "no linear probe among the evaluations yet")
    evaluation, classifier, figures = best
    control = best_linear_of_control(evaluations, evaluation, classifier)
    return KeyFigure("Best linear probe", figures.top1, control, f"{evaluation}, {classifier}, top-1")
