"""Weighted k nearest neighbours by cosine (Wu et al., CVPR 2018, section 3.4)."""

from rfd_tf.evaluation.classification_figures import classification_figures
from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.frozen_features import vector_features
from rfd_tf.evaluation.results import ClassifierFigures
from rfd_tf.metrics import nearest_neighbours, weighted_votes


def run(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """`FEATURE, k=K` -> figures, for every feature and every k of the config.

    Raises:
        ValueError: on no k, or one out of range.
    """
    settings = experiment.config.knn
    if not settings.k or min(settings.k) < 1 or not settings.temperature > 0:
        raise ValueError(
            "`knn.k` must be one or more numbers >= 1, and `knn.temperature` positive. "
            f"Received: k={settings.k}, temperature={settings.temperature}"
        )
    training, test = vector_features(experiment)
    labels = experiment.training_labels
    figures = {}
    for name in training:
        cosines, indices = nearest_neighbours(training[name], test[name], max(settings.k))
        for k in settings.k:
            scores = weighted_votes(
                cosines[:, :k], labels[indices[:, :k]], len(experiment.class_names), settings.temperature
            )
            figures[f"{name}, k={k}"] = classification_figures(
                experiment.test_labels, scores, experiment.class_counts
            )
    return figures
