"""The evaluations of a run: reading them, and choosing the one whose mistakes are shown."""

from pathlib import Path

from rfd_tf.evaluation.results import (
    EVALUATIONS_FOLDER,
    RESULT_FILE,
    ClassifierFigures,
    EvaluationResult,
    load_result,
)
from rfd_tf.report.contents import ClassifierSection

_CONTROL = "control"


def read_evaluations(workdir: Path) -> tuple[dict[str, EvaluationResult], list[str]]:
    """Every result below a run's folder by the name of its own, and what is wrong with those unreadable."""
    results, problems = {}, []
    for path in sorted(workdir.glob(f"{EVALUATIONS_FOLDER}/*/{RESULT_FILE}")):
        try:
            results[path.parent.name] = load_result(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return results, problems


def best_linear(results: dict[str, EvaluationResult]) -> tuple[str, str, ClassifierFigures] | None:
    """(evaluation, classifier, figures) of the highest top-1 among linear probes; None without any."""
    found = [
        (name, classifier, figures)
        for name, result in results.items()
        if is_linear(result) and not is_control(name, result)
        for classifier, figures in result.figures.items()
    ]
    return max(found, key=lambda entry: entry[2].top1, default=None)


def best_linear_of_control(
    results: dict[str, EvaluationResult], evaluation: str, classifier: str
) -> float | None:
    """Top-1 of the same classifier of the same protocol on an untrained control, where that was measured."""
    protocol = results[evaluation].protocol
    found = [
        result.figures[classifier].top1
        for name, result in results.items()
        if is_control(name, result) and result.protocol == protocol and classifier in result.figures
    ]
    return found[-1] if found else None


def choose_classifier(results: dict[str, EvaluationResult]) -> ClassifierSection | None:
    """The best linear probe, else the first classifier that has a confusion matrix."""
    with_confusion = [
        (name, classifier, figures)
        for name, result in results.items()
        if not is_control(name, result)
        for classifier, figures in result.figures.items()
        if figures.confusion
    ]
    chosen = best_linear(results)
    if chosen is None or not chosen[2].confusion:
        if not with_confusion:
            return None
        chosen = with_confusion[0]
    name, classifier, figures = chosen
    result = results[name]
    return ClassifierSection(
        title=f"{result.protocol}, {classifier}",
        origin=f"From the evaluation “{name}” of {result.date[:10]}, on {result.test_images} test images.",
        figures=figures,
        class_names=result.class_names,
        class_counts=result.class_counts,
        test_images=result.test_images,
    )


def is_linear(result: EvaluationResult) -> bool:
    """Whether a protocol is one of linear probes, by its name."""
    name = result.protocol.lower().replace("-", "").replace("_", "")
    return "linear" in name and "nonlinear" not in name


def is_control(name: str, result: EvaluationResult) -> bool:
    """Whether it is one of an untrained control, by the names of its folder, protocol or model."""
    return any(_CONTROL in text.lower() for text in (name, result.protocol, Path(result.model).name))


def most_confused(section: ClassifierSection, count: int = 10) -> list[tuple[str, str, int, int]]:
    """(class, taken for, images, of so many) of the most frequent confusions."""
    names = section.class_names
    pairs = [
        (images, true, taken)
        for true, row in enumerate(section.figures.confusion)
        for taken, images in enumerate(row)
        if true != taken and images
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    totals = [sum(row) for row in section.figures.confusion]
    return [(names[true], names[taken], images, totals[true]) for images, true, taken in pairs[:count]]
