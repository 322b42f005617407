"""How well the rotation can be told from either half of the features: their decoupling.

From the rotation features it should be told well, from the invariant features hardly better than by chance,
25 %.

Reference: Feng et al., CVPR 2019 (RFD).
"""

import keras
import numpy as np

from rfd_tf.evaluation.classification_figures import classification_figures
from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.feature_cache import cached_features
from rfd_tf.evaluation.four_view_extractor import FourViewExtractor
from rfd_tf.evaluation.logistic_regression import logistic_scores
from rfd_tf.evaluation.results import ClassifierFigures
from rfd_tf.models.feature_model import FEATURES, INVARIANT, ROTATION, ROTATION_PROBABILITIES
from rfd_tf.rotations import NUM_ROTATIONS
from rfd_tf.training.sources import Pictures
from rfd_tf.training.workdir import CACHE_FOLDER


def run(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """Figures of telling the four rotations of the test images, by classifier and features:

    `own head, rotation features`: the model's rotation head, where the model has it;
    `own head, invariant features`: the same head on the other half, as in RFD's figures; for Keras models
        only, since other forms do not give the head to other features;
    `logistic regression, ...`: for either half, one trained on the views of `rotation.training_images`
        training images. The head has never learnt from the invariant half; this one finds what is left of the
        rotation there. For a model without halves: on `features`.
    """
    outputs = experiment.extractor.info.outputs
    halves = [name for name in (ROTATION, INVARIANT) if name in outputs] or [FEATURES]
    head = [ROTATION_PROBABILITIES] if ROTATION_PROBABILITIES in outputs else []
    test = _views(experiment, experiment.test, [*halves, *head], "test_views")
    figures = _own_head(experiment, test) if head else {}
    training = _views(experiment, experiment.training, halves, "training_views")
    for half in halves:
        name = FEATURES if half == FEATURES else f"{half} features"
        figures[f"logistic regression, {name}"] = _logistic(experiment, training[half], test[half])
    return figures


def _views(
    experiment: Experiment, pictures: Pictures, names: list[str], folder: str
) -> dict[str, np.ndarray]:
    """name -> [N, 4, ...] of the four views of each picture."""
    return cached_features(
        FourViewExtractor(experiment.extractor),
        pictures,
        names,
        experiment.workdir / CACHE_FOLDER / folder,
        max(1, experiment.config.batch_size // NUM_ROTATIONS),
    )


def _own_head(experiment: Experiment, test: dict[str, np.ndarray]) -> dict[str, ClassifierFigures]:
    figures = {"own head, rotation features": _figures(experiment, _by_view(test[ROTATION_PROBABILITIES]))}
    heads = getattr(experiment.extractor, "heads", None)
    if heads is not None and INVARIANT in test:
        swapped = np.concatenate([_by_view(test[INVARIANT]), _by_view(test[ROTATION])], axis=1)
        probabilities = keras.ops.convert_to_numpy(heads(swapped)[ROTATION_PROBABILITIES])
        figures["own head, invariant features"] = _figures(experiment, probabilities)
    return figures


def _logistic(experiment: Experiment, training: np.ndarray, test: np.ndarray) -> ClassifierFigures:
    settings = experiment.config.logistic
    labels = np.tile(np.arange(NUM_ROTATIONS), len(training))
    found = logistic_scores(
        _by_view(training), labels, _by_view(test), NUM_ROTATIONS, settings.max_iterations, settings.c
    )
    return _figures(experiment, found.scores, {"iterations": found.iterations})


def _figures(experiment: Experiment, scores: np.ndarray, extra: dict | None = None) -> ClassifierFigures:
    labels = np.tile(np.arange(NUM_ROTATIONS), len(scores) // NUM_ROTATIONS)
    return classification_figures(labels, scores, experiment.class_counts, extra)


def _by_view(values: np.ndarray) -> np.ndarray:
    """[N, 4, ...] as [4 N, ...]."""
    return values.reshape(-1, *values.shape[2:])
