"""One evaluation, from its config to its result: the model, the images and their labels, and the figures."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from rfd_tf import data
from rfd_tf.evaluation import PROTOCOLS, classifiers, finetune, probes, voc_classification
from rfd_tf.evaluation.experiment import CLASSES, MULTI_LABEL, ROTATIONS, Experiment, measured
from rfd_tf.evaluation.results import EvaluationResult, Figures
from rfd_tf.features import FeatureModel, KerasFeatureModel, keras_feature_model
from rfd_tf.keras_internals import all_layers
from rfd_tf.models.libraries import MOST_MOMENTUM
from rfd_tf.runs.build import build_backbone
from rfd_tf.runs.images import ImageSet, open_run_images
from rfd_tf.runs.workdir import read_run_config

_CALIBRATION_PASSES = 3
CONTROL_NAME = "untrained control"  # ends the location of one, which its evaluations keep


def evaluate(
    protocol: str,
    config: ConfigDict,
    workdir: str | os.PathLike,
    open_model: Callable[[], FeatureModel],
    command: str = "",
) -> EvaluationResult:
    """Measure a model's features by one protocol.

    Args:
        protocol: one of `rfd_tf.evaluation.PROTOCOLS`.
        config: see `configs/evaluate/base.py`.
        workdir: the evaluation's folder; it ends with `config.json` and `evaluation.json`. Workers other than
            the first keep theirs in `workdir/worker-N`.
        open_model: opens the model; called once TensorFlow's devices are set up.
        command: the command line, for the result.

    Returns:
        The result, as saved in `workdir/evaluation.json`.

    Raises:
        WorkdirError: if the folder holds an evaluation of another model, protocol or config.
        ValueError, OSError: what the protocol, the model and the images have to say.
    """
    functions: dict[str, Callable[[Experiment], Mapping[str, Figures]]] = {
        "knn": classifiers.run_knn,
        "logistic": classifiers.run_logistic,
        "linear": probes.run_linear,
        "nonlinear": probes.run_nonlinear,
        "finetune": finetune.run_finetune,
        "rotation": classifiers.run_rotation,
        "voc_classification": voc_classification.run_voc_classification,
    }
    if protocol not in functions:
        raise ValueError(f"The protocol must be one of {', '.join(PROTOCOLS)}. Received: {protocol!r}")
    labels = {"rotation": ROTATIONS, "voc_classification": MULTI_LABEL}.get(protocol, CLASSES)
    return measured(protocol, functions[protocol], config, workdir, open_model, command, labels)


def open_control(run: Path, feature_maps: Sequence[str] | None = None) -> KerasFeatureModel:
    """A feature model of the untrained control of a run of `rfd train`.

    Args:
        run: its folder.
        feature_maps: as of `features.open_feature_model`.

    Raises:
        FileNotFoundError: if that is not a folder of a run, or its images are gone.
        ValueError: if its config cannot be read.
    """
    config = read_run_config(run)
    training, _ = open_run_images(config, run)
    return keras_feature_model(
        untrained_control(config, training),
        training.preprocessing,
        f"{run}/{CONTROL_NAME}",
        feature_name=config.backbone.feature,
        feature_maps=feature_maps,
    )


def untrained_control(config: ConfigDict, images: ImageSet) -> keras.Model:
    """The run's backbone as it was initialised, with batch-norm statistics of the images."""
    keras.utils.set_random_seed(config.seed)
    return _calibrated(build_backbone(config), images, config.seed, config.batch_size)


def untrained_copy(model: keras.Model, images: ImageSet, seed: int = 0, batch_size: int = 32) -> keras.Model:
    """A functional model with its first weights drawn anew, and batch-norm statistics of the images.

    Layers that normalise inputs by given numbers (`keras.layers.Normalization`) keep them.
    """
    keras.utils.set_random_seed(seed)
    copy = keras.models.clone_model(model)
    for ours, theirs in zip(all_layers(copy)[1:], all_layers(model)[1:], strict=True):
        ours.trainable = True  # a batch norm that is frozen takes no statistics
        if isinstance(ours, keras.layers.Normalization):
            ours.set_weights(theirs.get_weights())
    return _calibrated(copy, images, seed, batch_size)


def _calibrated(network: keras.Model, images: ImageSet, seed: int, batch_size: int) -> keras.Model:
    """The network, its batch norms with the statistics of the images."""
    # Folders come class by class, and running statistics remember the last batches best.
    shuffled = np.random.default_rng(seed).permutation(images.valid)
    images = dataclasses.replace(images, valid=shuffled)
    norms = [layer for layer in all_layers(network) if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:  # at 0.999 three passes over a thousand images would change little
        norm.momentum = min(norm.momentum, MOST_MOMENTUM)
    for _ in range(_CALIBRATION_PASSES):
        for batch in evaluation_batches(images, batch_size):
            network(batch["image"], training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network


def evaluation_batches(images: ImageSet, batch_size: int):
    """Every valid image once, as dicts of `image` and `index`, without labels."""
    dataset = data.evaluation_dataset(images.source, images.preprocessing, batch_size, images.valid)
    return dataset.map(lambda features, *_label: features)
