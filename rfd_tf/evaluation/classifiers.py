"""Protocols on features as they are: kNN, logistic regression, and how well the rotation is told."""

import warnings

import keras
import numpy as np
from absl import logging

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.features import FourViewFeatureModel, cached_features, vector_features
from rfd_tf.evaluation.results import ClassifierFigures, classification_figures
from rfd_tf.metrics import nearest_neighbours, weighted_votes
from rfd_tf.models.inference import FEATURES, INVARIANT, ROTATION, ROTATION_PROBABILITIES
from rfd_tf.rotations import NUM_ROTATIONS
from rfd_tf.runs.images import ImageSet


def run_knn(experiment: Experiment) -> dict[str, ClassifierFigures]:
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
    labels = experiment.training.labels
    figures = {}
    for name in training:
        cosines, indices = nearest_neighbours(training[name], test[name], max(settings.k))
        for k in settings.k:
            scores = weighted_votes(
                cosines[:, :k], labels[indices[:, :k]], len(experiment.class_names), settings.temperature
            )
            figures[f"{name}, k={k}"] = classification_figures(
                experiment.test.labels, scores, experiment.class_counts
            )
    return figures


def logistic_scores(
    training: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    max_iterations: int = 1000,
    c: float = 1.0,
) -> tuple[np.ndarray, int, bool]:
    """Fit on standardised training features, in double precision, and apply to the test features.

    Args:
        training: [N, D].
        labels: [N] in [0, C).
        test: [M, D].
        num_classes: C.
        max_iterations: of the solver (L-BFGS), at least 1. Unfinished, it is still the quick check that it is
            meant to be.
        c: inverse strength of the L2 penalty, positive.

    Returns:
        Logarithms of the probabilities, [M, C], -inf for classes without training features; the solver's
        iterations, and whether it finished within those that it was given.

    Raises:
        ValueError: on an argument out of range, or labels of one class only.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if max_iterations < 1 or not c > 0:
        raise ValueError(
            f"`max_iterations` must be at least 1 and `c` positive. Received: {max_iterations=}, {c=}"
        )
    if len(np.unique(labels)) < 2:
        raise ValueError(f"A logistic regression needs two classes; all training images are of {labels[0]}")
    solver = LogisticRegression(C=c, max_iter=max_iterations)
    classifier = make_pipeline(StandardScaler(), solver)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(np.asarray(training, "float64"), labels)
    scores = np.full((len(test), num_classes), -np.inf)
    scores[:, solver.classes_] = classifier.predict_log_proba(np.asarray(test, "float64"))
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in raised)
    return scores, int(np.max(solver.n_iter_)), converged


def run_logistic(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """Feature -> figures, with the solver's `iterations`; see `logistic_scores` for errors."""
    settings = experiment.config.logistic
    training, test = vector_features(experiment)
    figures = {}
    for name in training:
        scores, iterations, converged = logistic_scores(
            training[name],
            experiment.training.labels,
            test[name],
            len(experiment.class_names),
            settings.max_iterations,
            settings.c,
        )
        if not converged:
            logging.warning("%s: not converged after %d iterations", name, iterations)
        figures[name] = classification_figures(
            experiment.test.labels, scores, experiment.class_counts, {"iterations": iterations}
        )
    return figures


def run_rotation(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """Figures of telling the four rotations of the test images, by classifier and features:

    `own head, rotation features`: the model's rotation head, where the model has it;
    `own head, invariant features`: the same head on the other half, as in RFD's figures; for Keras models
        only, since other forms do not give the head to other features;
    `logistic regression, ...`: for either half, one trained on the views of `rotation.training_images`
        training images. The head has never learnt from the invariant half; this one finds what is left of the
        rotation there. For a model without halves: on `features`.
    """
    outputs = experiment.feature_model.info.outputs
    halves = [name for name in (ROTATION, INVARIANT) if name in outputs] or [FEATURES]
    head = [ROTATION_PROBABILITIES] if ROTATION_PROBABILITIES in outputs else []
    test = _views(experiment, experiment.test, [*halves, *head], "test_views")
    figures = _own_head(experiment, test) if head else {}
    training = _views(experiment, experiment.training, halves, "training_views")
    for half in halves:
        name = FEATURES if half == FEATURES else f"{half} features"
        figures[f"logistic regression, {name}"] = _logistic(experiment, training[half], test[half])
    return figures


def _views(experiment: Experiment, images: ImageSet, names: list[str], folder: str) -> dict[str, np.ndarray]:
    """name -> [N, 4, ...] of the four views of each image."""
    return cached_features(
        FourViewFeatureModel(experiment.feature_model),
        images,
        names,
        experiment.run.cache / folder,
        max(1, experiment.config.batch_size // NUM_ROTATIONS),
    )


def _own_head(experiment: Experiment, test: dict[str, np.ndarray]) -> dict[str, ClassifierFigures]:
    figures = {"own head, rotation features": _figures(experiment, _by_view(test[ROTATION_PROBABILITIES]))}
    heads = getattr(experiment.feature_model, "heads", None)
    if heads is not None and INVARIANT in test:
        swapped = np.concatenate([_by_view(test[INVARIANT]), _by_view(test[ROTATION])], axis=1)
        probabilities = keras.ops.convert_to_numpy(heads(swapped)[ROTATION_PROBABILITIES])
        figures["own head, invariant features"] = _figures(experiment, probabilities)
    return figures


def _logistic(experiment: Experiment, training: np.ndarray, test: np.ndarray) -> ClassifierFigures:
    settings = experiment.config.logistic
    labels = np.tile(np.arange(NUM_ROTATIONS), len(training))
    scores, iterations, _ = logistic_scores(
        _by_view(training), labels, _by_view(test), NUM_ROTATIONS, settings.max_iterations, settings.c
    )
    return _figures(experiment, scores, {"iterations": iterations})


def _figures(experiment: Experiment, scores: np.ndarray, extra: dict | None = None) -> ClassifierFigures:
    labels = np.tile(np.arange(NUM_ROTATIONS), len(scores) // NUM_ROTATIONS)
    return classification_figures(labels, scores, experiment.class_counts, extra)


def _by_view(values: np.ndarray) -> np.ndarray:
    """[N, 4, ...] as [4 N, ...]."""
    return values.reshape(-1, *values.shape[2:])
