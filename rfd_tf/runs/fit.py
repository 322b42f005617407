"""Training that is checkpointed, can be killed or stopped at any moment, and goes on where it was."""

import abc
import errno
import os
import sys
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.callbacks import GracefulStop, StopOnNonFinite, TrainingCheckpoint
from rfd_tf.files import naming
from rfd_tf.layers import fuse_batch_norm
from rfd_tf.runs.images import IMAGE_ERRORS
from rfd_tf.runs.workdir import HISTORY_FILE, WorkdirError, trim_history

DTYPE_POLICIES = ("float32", "mixed_bfloat16")
_COMPARED_CHECKPOINTS = 16


def check_run_values(config: ConfigDict) -> None:
    """Raise ValueError where the fields that every run has are out of range."""
    if config.epochs < 1:
        raise ValueError(f"`epochs` must be at least 1. Received: epochs={config.epochs}")
    if config.dtype_policy not in DTYPE_POLICIES:
        raise ValueError(f"`dtype_policy` must be one of {DTYPE_POLICIES}. Received: {config.dtype_policy!r}")
    if config.strategy == "multi_worker" and config.keep_checkpoints < 2:
        raise ValueError("Workers may be one checkpoint apart when they are killed: `keep_checkpoints` >= 2")


def set_up_keras(config: ConfigDict) -> None:
    """Seeds, dtype policy and determinism, as configured."""
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.dtype_policy)
    if config.deterministic:
        # A scatter's order does not matter to the bank: the rows of a batch are distinct. TensorFlow's
        # deterministic one would copy the whole table to the host and back in every step on a GPU.
        os.environ["TF_DISABLE_SCATTER_OP_DETERMINISM"] = "1"
        tf.config.experimental.enable_op_determinism()


class ResumableRun(abc.ABC):
    """One process's part of a training run by `model.fit`. Subclasses say what is trained, on what.

    Args:
        config: `batch_size`, `epochs`, `strategy`, `checkpoint_steps` and `keep_checkpoints`.
        workdir: folder of this worker, for `checkpoints/` and `history.csv`.
        strategy: of `distribution.create_strategy`.
        num_examples: of an epoch; the remainder beyond whole batches is dropped.

    Attributes:
        steps_per_epoch: global batches in an epoch.
        checkpoint: of the run.
        step: where it begins; after `build`.
        model: what is trained; after `build`.
    """

    def __init__(self, config: ConfigDict, workdir: Path, strategy, num_examples: int):
        self.config = config
        self.workdir = workdir
        self.strategy = strategy
        self.steps_per_epoch = data.steps_per_epoch(num_examples, config.batch_size)
        self.checkpoint = TrainingCheckpoint(
            workdir / "checkpoints", self.steps_per_epoch, config.checkpoint_steps, config.keep_checkpoints
        )

    @abc.abstractmethod
    def build_model(self, synchronized: bool) -> keras.Model:
        """The compiled model, its optimizer built; called under the strategy's scope.

        Args:
            synchronized: whether batch norm takes its statistics over several replicas.
        """

    @abc.abstractmethod
    def training_batches(self, start_step: int, epochs: int):
        """What `fit` is given, from `start_step` to the end of epoch `epochs`."""

    def validation_batches(self):
        """What `fit` validates on after every epoch, or None."""
        return None

    def state_callbacks(self) -> list[keras.callbacks.Callback]:
        """Those that set the model's state by epoch, on every worker."""
        return []

    def measuring_callbacks(self) -> list[keras.callbacks.Callback]:
        """Those that add to the logs or write them, on the first worker. By default TensorBoard's."""
        if not self.config.tensorboard:
            return []
        return [keras.callbacks.TensorBoard(self.workdir / "tensorboard", write_graph=False)]

    def name_bad_image(self, error: tf.errors.OpError) -> None:  # noqa: B027  most have none
        """Raise an error that names the picture that `error` came of, if there is one."""

    @property
    def is_first_worker(self) -> bool:
        return distribution.worker_index(self.strategy) == 0

    def build(self) -> None:
        """Model and callbacks, and the newest state that every worker has."""
        self.checkpoint.clean()
        self.step = self._newest_common_step()
        self.checkpoint.discard(lambda step: step > self.step)
        with self.strategy.scope():
            self.model = self.build_model(synchronized=self.strategy.num_replicas_in_sync > 1)
            if self.step:
                self.checkpoint.restore(self.model, self.step)
        fuse_batch_norm(self.model)
        if self.step:
            logging.info("Continuing after step %d", self.step)
        if self.is_first_worker:
            trim_history(self.workdir / HISTORY_FILE, self.step // self.steps_per_epoch)
        self.checkpoint.set_model(self.model)  # `fit` may fail before it would
        self._callbacks = self._all_callbacks()

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

    def _all_callbacks(self) -> list[keras.callbacks.Callback]:
        """In the order they must act: set state, measure, log, refuse NaN, save, stop."""
        acting = self.state_callbacks()
        if self.is_first_worker:
            acting += self.measuring_callbacks()
            acting.append(keras.callbacks.CSVLogger(str(self.workdir / HISTORY_FILE), append=True))
        any_worker = None
        if self.config.strategy == "multi_worker":

            def any_worker(asked: bool) -> bool:
                return bool(distribution.gather_over_workers(self.strategy, [asked]).any())

        stopping = GracefulStop(self.checkpoint, any_worker)
        return [*acting, StopOnNonFinite(self.checkpoint), self.checkpoint, stopping]

    def fit(self) -> None:
        """Finish the epoch that was interrupted, if any, then do the others.

        Raises:
            NonFiniteLossError: when a loss is no longer finite; the last checkpoint is from before.
            TrainingStopped: on SIGTERM or Ctrl-C, once the state is saved.
        """
        epoch, done = divmod(self.step, self.steps_per_epoch)
        if done and epoch < self.config.epochs:
            self._fit_epochs(epoch, epoch + 1, self.steps_per_epoch - done)
            epoch += 1
        if epoch < self.config.epochs:
            self._fit_epochs(epoch, self.config.epochs, self.steps_per_epoch)

    def _fit_epochs(self, first: int, end: int, steps: int) -> None:
        start_step = (first + 1) * self.steps_per_epoch - steps
        batches = self.training_batches(start_step, end)
        held_out = self.validation_batches()
        try:
            with naming(self.workdir), distribution.keras_workarounds(self.strategy):
                self.model.fit(
                    batches,
                    epochs=end,
                    initial_epoch=first,
                    steps_per_epoch=steps,
                    shuffle=False,  # the batches come shuffled
                    validation_data=held_out,
                    callbacks=self._callbacks,
                    # One line an epoch where no one watches a progress bar.
                    verbose=(1 if sys.stdout.isatty() else 2) if self.is_first_worker else 0,
                )
        except IMAGE_ERRORS as error:
            self.name_bad_image(error)
            raise
        except tf.errors.ResourceExhaustedError as error:
            if "No space left" not in error.message:  # but in memory
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.workdir)) from error
        finally:
            for callback in self._callbacks:
                if isinstance(callback, GracefulStop):
                    callback.restore_handlers()
