"""The figures that a report speaks of: evaluations, the headline, and a kNN made for the page."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from rfd_tf.evaluation.evaluate import CONTROL_NAME
from rfd_tf.evaluation.results import (
    EVALUATIONS_FOLDER,
    RESULT_FILE,
    ClassifierFigures,
    EvaluationResult,
    classification_figures,
    load_result,
)
from rfd_tf.features import keras_feature_model
from rfd_tf.metrics import weighted_knn_predict
from rfd_tf.models.inference import FEATURES
from rfd_tf.report.sample import Sample, features_of
from rfd_tf.runs.images import ImageSet

LINEAR, KNN, ROTATION = "linear", "knn", "rotation"  # protocols


@dataclasses.dataclass(frozen=True)
class ClassifierSection:
    """The classifier whose mistakes are shown.

    Attributes:
        title: protocol and classifier.
        origin: a sentence that tells where the figures come from.
        figures: its figures.
        class_names: C names.
        class_counts: training images of each class.
        test_images: how many there were.
    """

    title: str
    origin: str
    figures: ClassifierFigures
    class_names: list[str]
    class_counts: list[int]
    test_images: int


@dataclasses.dataclass(frozen=True)
class KeyFigure:
    """An accuracy in [0, 1] (None where there is none), that of the untrained control, what it means."""

    name: str
    value: float | None
    control: float | None
    meaning: str


def read_evaluations(workdir: Path) -> tuple[dict[str, EvaluationResult], list[str]]:
    """Every result below a run's folder by the name of its own, and what is wrong with those unreadable."""
    results, problems = {}, []
    for path in sorted(workdir.glob(f"{EVALUATIONS_FOLDER}/*/{RESULT_FILE}")):
        try:
            results[path.parent.name] = load_result(path)
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return results, problems


Classifier = tuple[str, str, ClassifierFigures]  # evaluation, classifier, figures


def best_of(results: dict[str, EvaluationResult], protocol: str) -> Classifier | None:
    """That with the highest top-1 by a protocol, but for controls."""
    found = [entry for entry in _classifiers(results) if results[entry[0]].protocol == protocol]
    return max(found, key=lambda entry: entry[2].top1, default=None)


def control_of(results: dict[str, EvaluationResult], protocol: str, classifier: str) -> float | None:
    """Top-1 of the same classifier on an untrained control, where that was measured."""
    for evaluation, name, figures in _classifiers(results, of_control=True):
        if results[evaluation].protocol == protocol and name == classifier:
            return figures.top1
    return None


def _classifiers(results: dict[str, EvaluationResult], of_control: bool = False) -> Iterator[Classifier]:
    """Those of trained models, or of untrained controls."""
    for evaluation, result in results.items():
        for name, figures in result.figures.items():
            if isinstance(figures, ClassifierFigures) and is_control(result) == of_control:
                yield evaluation, name, figures


def has_control(results: dict[str, EvaluationResult], protocol: str) -> bool:
    """Whether the best by a protocol can be compared with an untrained control."""
    best = best_of(results, protocol)
    return best is not None and control_of(results, protocol, best[1]) is not None


def is_control(result: EvaluationResult) -> bool:
    """Whether it is one of an untrained control, as `open_control` calls it, whatever folders are called."""
    return Path(result.model).name == CONTROL_NAME


def choose_classifier(results: dict[str, EvaluationResult]) -> ClassifierSection | None:
    """The best linear probe, else the first classifier of object classes."""
    others = (entry for entry in _classifiers(results) if results[entry[0]].protocol != ROTATION)
    chosen = best_of(results, LINEAR) or next(others, None)
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
    meaning = f"{images} images, last epoch; chance is 25 %"
    decoupled = "near 25 % where the two halves are decoupled"
    return [
        KeyFigure("Rotation told from rotation features", rotation, None, meaning),
        KeyFigure("Rotation told from invariant features", invariant, None, decoupled),
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
        return evaluated or KeyFigure(title, None, None, "needs labelled images that can be read")
    if evaluated is None:
        meaning = f"{quick.title}, a quick check on {quick.test_images} images"
        return KeyFigure(title, quick.figures.top1, control, meaning)
    if evaluated.control is None and control is not None:
        shares = [f"{100 * share:.1f} %" for share in (quick.figures.top1, control)]
        compared = f"quick check ({quick.title}): {shares[0]}, untrained control {shares[1]}"
        return dataclasses.replace(evaluated, meaning=f"{evaluated.meaning}; {compared}")
    return evaluated


def knn_section(
    config: ConfigDict, reference: Sample, queries: Sample, class_counts: np.ndarray
) -> ClassifierSection:
    """Figures of weighted kNN with the config's k and temperature; leave one out where both are the same."""
    alone = reference is queries
    predicted = _predict(config, reference.features, reference.labels, None if alone else queries.features)
    k = min(config.knn.k, len(reference) - alone)
    how = "each by the others" if alone else f"by {len(reference)} {reference.source} images"
    return ClassifierSection(
        title=f"Weighted kNN, k = {k}",
        origin=(
            "No evaluation with a confusion matrix was found. These figures are of a "
            f"weighted kNN made for this page: {len(queries)} {queries.source} images, classified {how}, "
            f"k = {k}, temperature {config.knn.temperature:g}."
        ),
        figures=classification_figures(np.asarray(queries.labels), predicted, class_counts),
        class_names=list(queries.class_names or ()),
        class_counts=class_counts.tolist(),
        test_images=len(queries),
    )


def control_knn_accuracy(
    config: ConfigDict,
    feature: str,
    untrained: Callable[[ImageSet], keras.Model],
    sets: list[tuple[ImageSet, Sample]],
) -> float:
    """Accuracy of the same kNN on an untrained control of the same architecture.

    Args:
        config: the run's.
        feature: the backbone's feature.
        untrained: images -> the untrained backbone with their batch-norm statistics.
        sets: training images with their sample, then those to classify, if they are others.
    """
    images, reference = sets[0]
    # The control's batch-norm statistics come from the sample: a whole data set would take too long.
    backbone = untrained(dataclasses.replace(images, valid=reference.indices))
    control = keras_feature_model(
        backbone,
        images.preprocessing,
        "the control",
        feature_name=feature,
        feature_maps=(),
        decoupled=False,
    )
    features = [
        features_of(control, FEATURES, images, sample.indices, f"control, {sample.source} images")
        for images, sample in sets
    ]
    predicted = _predict(config, features[0], reference.labels, features[1] if len(sets) > 1 else None)
    return float(np.mean(predicted == sets[-1][1].labels))


def _predict(config: ConfigDict, reference, labels, queries) -> np.ndarray:
    return weighted_knn_predict(reference, labels, queries, config.knn.k, config.knn.temperature)
