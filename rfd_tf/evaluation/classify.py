"""Supervised training of a whole network on (long-tailed) labels, from scratch or from a backbone."""

import os
from collections.abc import Callable

import keras
from ml_collections import ConfigDict

from rfd_tf.data import Preprocessing
from rfd_tf.evaluation.evaluate import measured
from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.protocols.finetune import train_whole
from rfd_tf.evaluation.results import ClassifierFigures, EvaluationResult
from rfd_tf.extractors import KerasExtractor, keras_extractor
from rfd_tf.models.feature_model import FEATURES
from rfd_tf.training.assembly import build_backbone
from rfd_tf.training.workdir import BACKBONE_FILE


def classify(
    config: ConfigDict, workdir: str | os.PathLike, initialize: Callable | None = None, command: str = ""
) -> EvaluationResult:
    """Train a network with a classifier on its main feature, as configured; continue what was interrupted.

    Args:
        config: see `configs/classify.py`.
        workdir: the run's folder. It ends with `backbone.keras` (features, to be evaluated or exported like
            those of any run), `classifier.keras` (from them to logits, or to cosines), `evaluation.json`,
            `history.csv` and `checkpoints/`.
        initialize: sets the backbone's weights from `config.init`, before training starts.
        command: the command line, for the result.

    Returns:
        The figures after the last epoch, by the name of the feature; their `extra` has the best epoch's.

    Raises:
        WorkdirError: if the folder holds a run of another config.
        BadImageError: on a corrupt image, unless `on_error="skip"`.
        NonFiniteLossError, TrainingStopped: as of `training.pretrain`.
        ValueError: on a config out of range.

    Reference: Cao et al., NeurIPS 2019 (LDAM-DRW), whose recipe `configs/classify.py` is.
    """

    def network() -> KerasExtractor:
        backbone = build_backbone(config)
        if config.init:
            initialize(backbone)
        return keras_extractor(
            backbone,
            Preprocessing.of_config(config),
            config.init or "untrained network",
            feature_name=config.backbone.feature,
            decoupled=False,
        )

    return measured("classify", _run, config, workdir, network, command)


def _run(experiment: Experiment) -> dict[str, ClassifierFigures]:
    return train_whole(experiment, FEATURES, BACKBONE_FILE, he_normal())


def he_normal() -> keras.initializers.Initializer:
    """The classifier's in Cao et al.'s code: normal, of variance 2 / fan_in."""
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
