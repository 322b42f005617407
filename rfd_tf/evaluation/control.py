"""What a run began with: the network that every figure of it is to be compared with."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from rfd_tf import data
from rfd_tf.extractors import KerasExtractor, keras_extractor
from rfd_tf.training.assembly import build_backbone
from rfd_tf.training.run_config import read_run_config
from rfd_tf.training.sources import Pictures, open_run_pictures

_CALIBRATION_PASSES = 3


CONTROL_NAME = "untrained control"  # ends the location of one, which its evaluations keep


def untrained_control(config: ConfigDict, pictures: Pictures) -> keras.Model:
    """The run's backbone as it was initialised, with batch-norm statistics of the pictures."""
    keras.utils.set_random_seed(config.seed)
    backbone = build_backbone(config)
    # Folders come class by class, and running statistics remember the last batches best.
    shuffled = np.random.default_rng(config.seed).permutation(pictures.valid)
    pictures = dataclasses.replace(pictures, valid=shuffled)
    for _ in range(_CALIBRATION_PASSES):
        for batch in evaluation_batches(pictures, config.batch_size):
            backbone(batch["image"], training=True)
    return backbone


def evaluation_batches(pictures: Pictures, batch_size: int):
    """Every valid picture once, as dicts of `image` and `index`, without labels."""
    dataset = data.evaluation_dataset(pictures.source, pictures.preprocessing, batch_size, pictures.valid)
    return dataset.map(lambda features, *_label: features)


def open_control(run: Path, feature_maps: Sequence[str] | None = None) -> KerasExtractor:
    """An extractor of the untrained control of a run of `rfd train`.

    Args:
        run: its folder.
        feature_maps: as of `extractors.open_extractor`.

    Raises:
        FileNotFoundError: if that is no folder of a run, or its pictures are gone.
        ValueError: if its config cannot be read.
    """
    config = read_run_config(run)
    training, _ = open_run_pictures(config, run)
    return keras_extractor(
        untrained_control(config, training),
        training.preprocessing,
        f"{run}/{CONTROL_NAME}",
        feature_name=config.backbone.feature,
        feature_maps=feature_maps,
    )
