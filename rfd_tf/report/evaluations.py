"""The evaluations of a run: reading them, and choosing those that the page speaks of."""

from pathlib import Path

from rfd_tf.evaluation.evaluate import CONTROL_NAME
from rfd_tf.evaluation.results import (
    EVALUATIONS_FOLDER,
    RESULT_FILE,
    ClassifierFigures,
    EvaluationResult,
    load_result,
)
from rfd_tf.report.contents import ClassifierSection

LINEAR, KNN, ROTATION = "linear", "knn", "rotation"  # protocols


def read_evaluations(workdir: Path) -> tuple[dict[str, EvaluationResult], list[str]]:
    """Every result below a run's folder by the name of its own, and what is wrong with those unreadable."""
    results, problems = {}, []
    for path in sorted(workdir.glob(f"{EVALUATIONS_FOLDER}/*/{RESULT_FILE}")):
        try:
            results[path.parent.name] = load_result(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return results, problems


def best_of(results: dict[str, EvaluationResult], protocol: str) -> tuple[str, str, ClassifierFigures] | None:
    """(evaluation, classifier, figures) of the highest top-1 by a protocol, but for controls."""
    found = [
        (name, classifier, figures)
        for name, result in results.items()
        if result.protocol == protocol and not is_control(result)
        for classifier, figures in result.figures.items()
    ]
    return max(found, key=lambda entry: entry[2].top1, default=None)


def control_of(results: dict[str, EvaluationResult], protocol: str, classifier: str) -> float | None:
    """Top-1 of the same classifier on an untrained control, where that was measured."""
    found = [
        result.figures[classifier].top1
        for name, result in results.items()
        if is_control(result) and result.protocol == protocol and classifier in result.figures
    ]
    return found[0] if found else None


def has_control(results: dict[str, EvaluationResult], protocol: str) -> bool:
    """Whether the best by a protocol can be compared with an untrained control."""
    best = best_of(results, protocol)
    return best is not None and control_of(results, protocol, best[1]) is not None


def is_control(result: EvaluationResult) -> bool:
    """Whether it is one of an untrained control, as `open_control` calls it, whatever folders are called."""
    return Path(result.model).name == CONTROL_NAME


def choose_classifier(results: dict[str, EvaluationResult]) -> ClassifierSection | None:
    """The best linear probe, else the first classifier of object classes."""
    others = [
        (name, classifier, figures)
        for name, result in results.items()
        if result.protocol != ROTATION and not result.is_multi_label and not is_control(result)
        for classifier, figures in result.figures.items()
    ]
    chosen = best_of(results, LINEAR) or next(iter(others), None)
    if chosen is None:
        return None
    name, classifier, figures = chosen
    result = results[name]
    return ClassifierSection(
        title=f"{name}: {classifier}",
        origin=f"From the evaluation of {result.date[:10]} on {result.test_images} test images.",
        figures=figures,
        class_names=result.class_names,
        class_counts=result.class_counts,
        test_images=result.test_images,
    )


def most_confused(section: ClassifierSection, count: int = 10) -> list[tuple[str, str, int, int]]:
    """(class, taken for, images, of so many) of the most frequent confusions."""
    names = section.class_names
    pairs = [
        (images, actual, taken)
        for actual, row in enumerate(section.figures.confusion)
        for taken, images in enumerate(row)
        if actual != taken and images
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    totals = [sum(row) for row in section.figures.confusion]
    return [(names[actual], names[taken], images, totals[actual]) for images, actual, taken in pairs[:count]]
