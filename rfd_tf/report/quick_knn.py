"""Weighted kNN on the report's own samples, trained and untrained."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from rfd_tf.evaluation.evaluate import untrained_control
from rfd_tf.evaluation.results import classification_figures
from rfd_tf.features import keras_extractor
from rfd_tf.metrics import weighted_knn_predict
from rfd_tf.models.feature_model import FEATURES
from rfd_tf.report.contents import ClassifierSection
from rfd_tf.report.sample import Sample, features_of
from rfd_tf.runs.images import Pictures


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
            "No evaluation with a confusion matrix was found in the run's folder. These figures are of a "
            f"weighted kNN made for this page: {len(queries)} {queries.source} images, classified {how}, "
            f"k = {k}, temperature {config.knn.temperature:g}."
        ),
        figures=classification_figures(queries.labels, predicted, class_counts),
        class_names=list(queries.class_names),
        class_counts=class_counts.tolist(),
        test_images=len(queries),
    )


def control_knn_accuracy(config: ConfigDict, feature: str, sets: list[tuple[Pictures, Sample]]) -> float:
    """Accuracy of the same kNN on an untrained control of the same architecture.

    Args:
        config: the run's.
        feature: the backbone's feature.
        sets: training pictures with their sample, then those to classify, if they are others.
    """
    pictures, reference = sets[0]
    # The control's batch-norm statistics come from the sample: a whole data set would take too long.
    backbone = untrained_control(config, dataclasses.replace(pictures, valid=reference.indices))
    control = keras_extractor(
        backbone,
        pictures.preprocessing,
        "the control",
        feature_name=feature,
        feature_maps=(),
        decoupled=False,
    )
    features = [
        features_of(control, FEATURES, pictures, sample.indices, f"control, {sample.source} pictures")
        for pictures, sample in sets
    ]
    predicted = _predict(config, features[0], reference.labels, features[1] if len(sets) > 1 else None)
    return float(np.mean(predicted == sets[-1][1].labels))


def _predict(config: ConfigDict, reference, labels, queries) -> np.ndarray:
    return weighted_knn_predict(reference, labels, queries, config.knn.k, config.knn.temperature)
