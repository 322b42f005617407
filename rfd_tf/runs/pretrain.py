"""One pretraining run, from its config to its backbone; started again, it goes on where it was."""

import os
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from rfd_tf import distribution
from rfd_tf.files import atomic_path
from rfd_tf.runs.build import build_model, load_instance_weights, measuring_callbacks, state_callbacks
from rfd_tf.runs.fit import ResumableRun, check_run_values, set_up_keras
from rfd_tf.runs.images import (
    Pictures,
    check_same_on_all_workers,
    list_skipped,
    name_bad_image,
    negatives_per_image,
    open_run_pictures,
    training_batches,
    validation_batches,
)
from rfd_tf.runs.workdir import BACKBONE_FILE, HEADS_FILE, check_workdir, claim_workdir, lock_workdir


def pretrain(config: ConfigDict, workdir: str | os.PathLike, initialize: Callable | None = None) -> Path:
    """Train `RotationDecoupling` as configured, with `model.fit`; continue a run that was interrupted.

    Args:
        config: see `configs/base.py`.
        workdir: the run's folder. It ends with `backbone.keras`, `heads.keras`, `checkpoints/`,
            `config.json`, `history.csv` and `tensorboard/`. Workers other than the first keep theirs in
            `workdir/worker-N`.
        initialize: sets the backbone's weights from `config.init`, before training starts.

    Returns:
        The path of `backbone.keras`.

    Raises:
        WorkdirError: if the folder holds a run of another config.
        BadImageError: on a corrupt image, unless `data.on_error="skip"`.
        NonFiniteLossError: when a loss is no longer finite; the last checkpoint is from before.
        CollapseError: with `on_collapse="stop"`, when the features collapse.
        TrainingStopped: on SIGTERM or Ctrl-C, once the state is saved.
        ValueError: on a config out of range.
    """
    check_run_values(config)
    strategy = distribution.create_strategy(config.strategy, config.logical_cpus)
    set_up_keras(config)
    worker = distribution.worker_index(strategy)
    workdir = Path(workdir) / (f"worker-{worker}" if worker else "")
    check_workdir(workdir, config.to_dict())
    with lock_workdir(workdir):
        training, validation = open_run_pictures(config, workdir)
        try:
            run = _PretrainingRun(config, workdir, strategy, training, validation)
            run.initialize = initialize if config.init else None
            drawn = negatives_per_image(config, len(training.source))
            compared = f"{drawn} rows of the bank, drawn for each image" if drawn else "all rows of the bank"
            logging.info("Instance loss: %s over %s", config.method.get("instance_loss", "nce"), compared)
            run.build()
            claim_workdir(workdir, config.to_dict())
            run.fit()
        finally:
            list_skipped(training, validation)
        return run.save_backbone()


class _PretrainingRun(ResumableRun):
    """The state of one call of `pretrain`."""

    initialize: Callable | None = None

    def __init__(self, config, workdir: Path, strategy, training: Pictures, validation: Pictures | None):
        super().__init__(config, workdir, strategy, len(training.valid))
        self.training = training
        self.validation = validation
        self.num_instances = len(training.source)
        self.instance_weights = load_instance_weights(config, self.num_instances)
        check_same_on_all_workers(training, strategy)

    def build_model(self, synchronized: bool) -> keras.Model:
        return build_model(
            self.config,
            self.num_instances,
            self.steps_per_epoch,
            self.instance_weights,
            synchronized,
            initialize=None if self.step else self.initialize,
        )

    def state_callbacks(self):
        return state_callbacks(self.config, self.model)

    def measuring_callbacks(self):
        return measuring_callbacks(self.config, self.workdir, self.training, self.validation)

    def training_batches(self, start_step: int, epochs: int):
        return training_batches(self.training, self.config, self.strategy, start_step, epochs)

    def validation_batches(self):
        if self.validation is None:
            return None
        return validation_batches(self.validation, self.config, self.strategy, self.num_instances)

    def name_bad_image(self, error: tf.errors.OpError) -> None:
        name_bad_image(self.config, self.training, self.validation, self.checkpoint.step, error)

    def save_backbone(self) -> Path:
        """`backbone.keras` and, before it, `heads.keras`; features and heads only, without the bank."""
        final = self.workdir / BACKBONE_FILE
        for model, path in ((self.model.heads(), self.workdir / HEADS_FILE), (self.model.backbone, final)):
            with atomic_path(path) as temporary:
                model.save(temporary)
        return final
