"""What a finished pretraining run has learned, beside an untrained control of the same architecture."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from rfd_tf import data
from rfd_tf.evaluation.classifiers import logistic_scores
from rfd_tf.evaluation.evaluate import evaluation_batches, untrained_control
from rfd_tf.metrics import weighted_knn_predict
from rfd_tf.models import extract_features
from rfd_tf.models.keras_file import read_keras
from rfd_tf.runs.build import measured_feature
from rfd_tf.runs.images import Pictures, open_run_pictures
from rfd_tf.runs.rotation_probabilities import agnosticness, shown_images
from rfd_tf.runs.workdir import read_history, read_run_config


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """Figures of a run.

    Attributes:
        history: the CSV history, a float column per name.
        accuracies: {"trained" or "untrained control": {"kNN" or "linear": accuracy in [0, 1]}}.
        agnostic: up to 16 images [H, W, 3] in [0, 1] that the probability file calls most rotation-agnostic,
            with their mean probabilities; None without a file.
    """

    history: dict[str, np.ndarray]
    accuracies: dict[str, dict[str, float]]
    agnostic: tuple[np.ndarray, np.ndarray] | None


def summarize_run(workdir: Path) -> RunSummary:
    """Measure a finished run.

    The control has the config's initial weights, and batch-norm statistics of the training images, so that it
    differs by the training alone.

    Raises:
        FileNotFoundError: where the run has not finished.
        ValueError: where it is no pretraining, or training or validation source has no labels.
    """
    if not (workdir / "backbone.keras").exists():
        raise FileNotFoundError(f"{workdir} holds no backbone.keras: the run has not finished")
    config = read_run_config(workdir)
    if config.kind != "pretrain":
        raise ValueError(f"{workdir} is a run on labels, not a pretraining: evaluation.json has its figures")
    training, test = open_run_pictures(config, workdir)
    if test is None:
        raise ValueError("The run has no validation source, so that there is nothing to measure on")
    if training.source.labels is None or test.source.labels is None:
        raise ValueError("Both the training and the validation source must be labelled to measure accuracies")

    backbones = {
        "trained": read_keras(workdir / "backbone.keras"),
        "untrained control": untrained_control(config, training),
    }
    accuracies = {}
    for name, backbone in backbones.items():
        accuracies[name] = _accuracies(backbone, training, test, config)
    return RunSummary(read_history(workdir / "history.csv"), accuracies, _most_agnostic(config, training))


def _accuracies(
    backbone: keras.Model, training: Pictures, test: Pictures, config: ConfigDict
) -> dict[str, float]:
    reference, labels = _labelled_features(backbone, training, config)
    queries, expected = _labelled_features(backbone, test, config)
    neighbours = weighted_knn_predict(reference, labels, queries, config.knn.k, config.knn.temperature)
    scores = logistic_scores(reference, labels, queries, training.source.num_classes).scores
    return {
        "kNN": float(np.mean(neighbours == expected)),
        "linear": float(np.mean(scores.argmax(axis=1) == expected)),
    }


def _labelled_features(backbone, pictures: Pictures, config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    features, index = extract_features(
        backbone, evaluation_batches(pictures, config.batch_size), measured_feature(config)
    )
    return features, pictures.source.labels[index]


def _most_agnostic(config: ConfigDict, pictures: Pictures, count: int = 16):
    path = config.rotation_probabilities.path
    if not path:
        return None
    probabilities = data.load_rotation_probabilities(path, len(pictures.source))
    agnostic = agnosticness(probabilities)
    chosen = pictures.valid[np.argsort(-agnostic[pictures.valid])[:count]]
    return shown_images(pictures, chosen), agnostic[chosen]
