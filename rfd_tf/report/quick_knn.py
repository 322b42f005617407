"""Weighted kNN on the report's own samples, trained and untrained."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from rfd_tf.evaluation.results import ClassifierFigures
from rfd_tf.evaluation.run_summary import untrained_control
from rfd_tf.extractors import keras_extractor
from rfd_tf.imbalance import class_counts_of, shot_groups
from rfd_tf.metrics import weighted_knn_predict
from rfd_tf.report.contents import ClassifierSection
from rfd_tf.report.sample import Sample, features_of
from rfd_tf.training.sources import Pictures


def knn_section(config: ConfigDict, reference: Sample, queries: Sample, class_counts: np.ndarray):
    """Figures of weighted kNN with the config's k and temperature; leave one out where both are the same."""
    alone = reference is queries
    predicted = _predict(config, reference.features, reference.labels, None if alone else queries.features)
    k = min(config.knn.k, len(reference) - alone)
    how = "each from the others" if alone else f"by {len(reference)} training images"
    return ClassifierSection(
        title=f"weighted kNN (k = {k})",
        origin=(
            "No evaluation with a confusion matrix was found in the run's folder. These figures are of a "
            f"weighted kNN made for this page: {len(queries)} {queries.source} images, classified {how}, "
            f"k = {k}, temperature {config.knn.temperature:g}."
        ),
        figures=_figures(predicted, queries.labels, class_counts),
        class_names=list(queries.class_names),
        class_counts=class_counts.tolist(),
        test_images=len(queries),
    )


def control_knn_accuracy(
    config: ConfigDict, feature: str, sets: list[tuple[Pictures, Sample]]
) -> float:
    """Accuracy of the same kNN on an untrained control of the same architecture.

    Args:
        config: the run's.
        feature: the backbone's feature.
        sets: training pictures with their sample, then those to classify, if they are others.
    """
    pictures, reference = sets[0]
    # The control's batch-norm statistics come from the sample: a whole data set would take too long.
    backbone = untrained_control(config, dataclasses.replace(pictures, valid=reference.indices))
    control = keras_extractor(backbone, pictures.preprocessing, "the control", feature_name=feature, feature_maps=())
    features = [
        features_of(control, "features", pictures, sample.indices, f"control, {sample.source} pictures")
        for pictures, sample in sets
    ]
    queries = sets[-1][1]
    predicted = _predict(config, features[0], reference.labels, features[1] if len(sets) > 1 else None)
    return float(np.mean(predicted == queries.labels))


def _predict(config: ConfigDict, reference, labels, queries) -> np.ndarray:
    return weighted_knn_predict(reference, labels, queries, config.knn.k, config.knn.temperature)


def _figures(predicted: np.ndarray, labels: np.ndarray, class_counts: np.ndarray) -> ClassifierFigures:
    classes = len(class_counts)
    confusion = np.zeros((classes, classes), dtype="int64")
    np.add.at(confusion, (labels, predicted), 1)
    totals = class_counts_of(labels, classes)
    per_class = [float(confusion[c, c] / totals[c]) if totals[c] else None for c in range(classes)]
    return ClassifierFigures(
        top1=float(np.mean(predicted == labels)),
        top5=None,
        balanced_accuracy=_mean(per_class),
        per_class=per_class,
        shot_groups={
            name: _mean([per_class[c] for c in group]) for name, group in shot_groups(class_counts).items()
        },
        confusion=confusion.tolist(),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
