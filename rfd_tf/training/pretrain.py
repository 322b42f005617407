"""One pretraining run, from its config to its backbone; started again, it goes on where it was."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.atomic import atomic_path
from rfd_tf.callbacks import GracefulStop, TrainingCheckpoint
from rfd_tf.training.assembly import build_callbacks, build_model, load_instance_weights
from rfd_tf.training.sources import (
    Pictures,
    check_same_on_all_workers,
    open_run_pictures,
    training_batches,
    validation_batches,
)
from rfd_tf.training.workdir import (
    BACKBONE_FILE,
    HEADS_FILE,
    WorkdirError,
    check_workdir,
    claim_workdir,
    lock_workdir,
    trim_history,
)

DTYPE_POLICIES = ("float32", "mixed_bfloat16")
_COMPARED_CHECKPOINTS = 16
# An error may come before its turn: the pipeline works so many steps ahead, or fewer.
_PREFETCHED_STEPS = 16
# What TensorFlow raises on an image that cannot be read or decoded, among other things.
_IMAGE_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.DataLossError,
    tf.errors.UnknownError,
)


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
        TrainingStopped: on SIGTERM or Ctrl-C, once the state is saved.
        ValueError: on a config out of range.
    """
    _check_values(config)
    strategy = distribution.create_strategy(config.strategy, config.logical_cpus)
    _set_up_keras(config)
    worker = distribution.worker_index(strategy)
    workdir = Path(workdir) / (f"worker-{worker}" if worker else "")
    check_workdir(workdir, config.to_dict())
    with lock_workdir(workdir):
        training, validation = open_run_pictures(config, workdir)
        try:
            run = _Run(config, workdir, strategy, training, validation)
            run.build(initialize if config.init else None)
            claim_workdir(workdir, config.to_dict())
            run.fit()
        finally:
            _list_skipped(training, validation)
        return run.save_backbone()


def _check_values(config: ConfigDict) -> None:
    if config.epochs < 1:
        raise ValueError(f"`epochs` must be at least 1. Received: epochs={config.epochs}")
    if config.dtype_policy not in DTYPE_POLICIES:
        raise ValueError(f"`dtype_policy` must be one of {DTYPE_POLICIES}. Received: {config.dtype_policy!r}")
    if config.strategy == "multi_worker" and config.keep_checkpoints < 2:
        raise ValueError("Workers may be one checkpoint apart when they are killed: `keep_checkpoints` >= 2")


def _set_up_keras(config: ConfigDict) -> None:
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.dtype_policy)
    if config.deterministic:
        # A scatter's order does not matter to the bank: the rows of a batch are distinct. TensorFlow's
        # deterministic one would copy the whole table to the host and back in every step on a GPU.
        os.environ["TF_DISABLE_SCATTER_OP_DETERMINISM"] = "1"
        tf.config.experimental.enable_op_determinism()


def _list_skipped(*all_pictures: Pictures | None) -> None:
    for pictures in filter(None, all_pictures):
        if pictures.skipped:
            listed = "\n".join(f"  {path}: {reason}" for path, reason in pictures.skipped)
            logging.warning(
                "%d corrupt images of %s were skipped:\n%s",
                len(pictures.skipped),
                pictures.source.name,
                listed,
            )


class _Run:
    """The state of one call of `pretrain`."""

    def __init__(self, config, workdir: Path, strategy, training: Pictures, validation: Pictures | None):
        self.config = config
        self.workdir = workdir
        self.strategy = strategy
        self.training = training
        self.validation = validation
        self.num_instances = len(training.source)
        self.steps_per_epoch = data.steps_per_epoch(len(training.valid), config.batch_size)
        self.checkpoint = TrainingCheckpoint(
            workdir / "checkpoints", self.steps_per_epoch, config.checkpoint_steps, config.keep_checkpoints
        )

    def build(self, initialize) -> None:
        """Model and callbacks, and the newest state that every worker has."""
        weights = load_instance_weights(self.config, self.num_instances)
        check_same_on_all_workers(self.training, self.strategy)
        self.checkpoint.clean()
        self.step = self._newest_common_step()
        self.checkpoint.discard(lambda step: step > self.step)
        with self.strategy.scope():
            self.model = build_model(
                self.config,
                self.num_instances,
                self.steps_per_epoch,
                weights,
                synchronized=self.strategy.num_replicas_in_sync > 1,
                initialize=None if self.step else initialize,
            )
            if self.step:
                self.checkpoint.restore(self.model, self.step)
        if self.step:
            logging.info("Continuing after step %d", self.step)
        is_first = distribution.worker_index(self.strategy) == 0
        if is_first:
            trim_history(self.workdir / "history.csv", self.step // self.steps_per_epoch)
        self.callbacks = build_callbacks(
            self.config,
            self.model,
            self.checkpoint,
            self.workdir,
            self.training,
            self.validation,
            self.strategy,
        )

    def _newest_common_step(self) -> int:
        """The newest step that every worker has a checkpoint of; 0 where none has any."""
        steps = self.checkpoint.steps()[-_COMPARED_CHECKPOINTS:]
        padded = steps + [0] * (_COMPARED_CHECKPOINTS - len(steps))
        by_worker = [
            set(row.tolist()) - {0} for row in distribution.gather_over_workers(self.strategy, padded)
        ]
        common = set.intersection(*by_worker)
        if common or not any(by_worker):
            return max(common, default=0)
        held = "; ".join(f"worker {i}: {sorted(steps) or 'none'}" for i, steps in enumerate(by_worker))
        raise WorkdirError(
            f"The workers have no checkpoint of the same step ({held}). Copy the checkpoint folder of one "
            "worker to the others, or start anew in another folder"
        )

    def fit(self) -> None:
        """Finish the epoch that was interrupted, if any, then do the others."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        if done and epoch < self.config.epochs:
            self._fit_epochs(epoch, epoch + 1, self.steps_per_epoch - done)
            epoch += 1
        if epoch < self.config.epochs:
            self._fit_epochs(epoch, self.config.epochs, self.steps_per_epoch)

    def _fit_epochs(self, first: int, end: int, steps: int) -> None:
        start_step = (first + 1) * self.steps_per_epoch - steps
        batches = training_batches(self.training, self.config, self.strategy, start_step, end)
        held_out = None
        if self.validation is not None:
            held_out = validation_batches(self.validation, self.config, self.strategy, self.num_instances)
        is_first = distribution.worker_index(self.strategy) == 0
        try:
            with distribution.keras_workarounds(self.strategy):
                self.model.fit(
                    batches,
                    epochs=end,
                    initial_epoch=first,
                    steps_per_epoch=steps,
                    shuffle=False,  # the batches come shuffled
                    validation_data=held_out,
                    callbacks=self.callbacks,
                    # One line an epoch where no one watches a progress bar.
                    verbose=(1 if sys.stdout.isatty() else 2) if is_first else 0,
                )
        except _IMAGE_ERRORS as error:
            self._name_bad_image(error)
            raise
        finally:
            for callback in self.callbacks:
                if isinstance(callback, GracefulStop):
                    callback.restore_handlers()

    def _name_bad_image(self, error: tf.errors.OpError) -> None:
        """Look for the culprit of a failed decoding among the next batches, then in the validation set."""
        upcoming = data.training_indices(
            self.num_instances,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            start_step=self.checkpoint.step,
            num_steps=_PREFETCHED_STEPS,
            valid_indices=self.training.valid,
        )
        self.training.name_bad_image(error, upcoming)
        if self.validation is not None:
            self.validation.name_bad_image(error, self.validation.valid)

    def save_backbone(self) -> Path:
        """`backbone.keras` and, before it, `heads.keras`; features and heads only, without the bank."""
        final = self.workdir / BACKBONE_FILE
        for model, path in ((self.model.heads(), self.workdir / HEADS_FILE), (self.model.backbone, final)):
            with atomic_path(path) as temporary:
                model.save(temporary)
        return final
