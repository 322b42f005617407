"""Logistic regression on frozen features: a quick check, without the recipe of the linear probes."""

from absl import logging

from rfd_tf.evaluation.classification_figures import classification_figures
from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.frozen_features import vector_features
from rfd_tf.evaluation.logistic_regression import logistic_scores
from rfd_tf.evaluation.results import ClassifierFigures


def run(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """Feature -> figures, with the solver's `iterations`; see `logistic_scores` for errors."""
    settings = experiment.config.logistic
    training, test = vector_features(experiment)
    figures = {}
    for name in training:
        found = logistic_scores(
            training[name],
            experiment.training_labels,
            test[name],
            len(experiment.class_names),
            settings.max_iterations,
            settings.c,
        )
        if not found.converged:
            logging.warning("%s: not converged after %d iterations", name, found.iterations)
        figures[name] = classification_figures(
            experiment.test_labels,
            found.scores,
            experiment.class_counts,
            {"iterations": found.iterations},
        )
    return figures
