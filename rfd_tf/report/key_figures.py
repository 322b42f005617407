import dataclasses

import numpy as np

from rfd_tf.evaluation.results import EvaluationResult
from rfd_tf.report.contents import ClassifierSection, KeyFigure
from rfd_tf.report.evaluations import KNN, LINEAR, best_of, control_of


def key_figures(
    history: dict[str, np.ndarray] | None,
    evaluations: dict[str, EvaluationResult],
    quick_knn: ClassifierSection | None,
    quick_control: float | None,
) -> list[KeyFigure]:
    """The headline: rotation accuracy from either half, kNN, the best linear probe.

    Args:
        history: columns of the run's history.
        evaluations: the run's.
        quick_knn: figures made for the page, where they were.
        quick_control: accuracy of the same on the untrained control.
    """
    return [
        *_rotation_figures(history or {}),
        _knn(evaluations, quick_knn, quick_control),
        _of_protocol("Best linear probe", LINEAR, evaluations)
        or KeyFigure("Best linear probe", None, None, "no linear probe among the evaluations yet"),
    ]


def _rotation_figures(history: dict[str, np.ndarray]) -> list[KeyFigure]:
    prefix = "val_" if "val_rotation_accuracy" in history else ""
    images = "validation" if prefix else "training"
    rotation = _last(history, f"{prefix}rotation_accuracy")
    invariant = _last(history, f"{prefix}invariant_rotation_accuracy")
    return [
        KeyFigure(
            "Rotation told from rotation features",
            rotation,
            None,
            f"{images} images, last epoch; chance is 25 %",
        ),
        KeyFigure(
            "Rotation told from invariant features",
            invariant,
            None,
            "near 25 % where the two halves are decoupled",
        ),
    ]


def _last(history: dict[str, np.ndarray], column: str) -> float | None:
    values = history.get(column, np.array([]))
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None


def _of_protocol(title: str, protocol: str, evaluations: dict[str, EvaluationResult]) -> KeyFigure | None:
    if (best := best_of(evaluations, protocol)) is None:
        return None
    evaluation, classifier, figures = best
    control = control_of(evaluations, protocol, classifier)
    meaning = f"{evaluation}: {classifier}, top-1 on {evaluations[evaluation].test_images} images"
    return KeyFigure(title, figures.top1, control, meaning)


def _knn(
    evaluations: dict[str, EvaluationResult], quick: ClassifierSection | None, control: float | None
) -> KeyFigure:
    title = "Classes by kNN"
    evaluated = _of_protocol(title, KNN, evaluations)
    if quick is None:
        return evaluated or KeyFigure(title, None, None, "needs labelled pictures that can be read")
    if evaluated is None:
        meaning = f"{quick.title}, a quick check on {quick.test_images} images"
        return KeyFigure(title, quick.figures.top1, control, meaning)
    if evaluated.control is None and control is not None:
        shares = [f"{100 * share:.1f} %" for share in (quick.figures.top1, control)]
        compared = f"quick check ({quick.title}): {shares[0]}, untrained control {shares[1]}"
        return dataclasses.replace(evaluated, meaning=f"{evaluated.meaning}; {compared}")
    return evaluated
