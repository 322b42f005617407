"""Stopping a run: on a signal, once its state is saved, and on a loss that is not finite."""

import math
import signal
import threading
from collections.abc import Callable

import keras
from absl import logging

from rfd_tf.callbacks.training_checkpoint import TrainingCheckpoint
from rfd_tf.terminal import Stopped


class NonFiniteLossError(ArithmeticError):
    """A loss became NaN or infinite. The message names the step and the losses."""


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises `NonFiniteLossError` after the first step that leaves a loss NaN or infinite.

    Put it before callbacks that save. Reads the losses every step.

    Args:
        checkpoint: of the run. A checkpoint of the step before is removed: its weights are those that gave
            the loss. What remains is good.
    """

    def __init__(self, checkpoint: TrainingCheckpoint | None = None):
        super().__init__()
        self.checkpoint = checkpoint

    def on_train_batch_end(self, batch, logs=None):
        losses = {name: float(value) for name, value in (logs or {}).items() if "loss" in name}
        if bad := {name: value for name, value in losses.items() if not math.isfinite(value)}:
            step = int(self.model.optimizer.iterations.numpy())
            if self.checkpoint is not None:
                self.checkpoint.discard(lambda saved: saved == step - 1)
            listed = ", ".join(f"{name}={value}" for name, value in bad.items())
            raise NonFiniteLossError(
                f"Step {step}: {listed}. The checkpoints that remain are from before. Look at the data of "
                "this step, or start with a lower learning rate in a new folder."
            )


class TrainingStopped(Stopped):
    """Training ended on a signal, its state saved."""


class GracefulStop(keras.callbacks.Callback):
    """On SIGTERM or Ctrl-C: finish the step, save a checkpoint, raise `TrainingStopped`.

    A second signal ends the process at once. Acts in the main thread only, where Python handles signals.

    Args:
        checkpoint: of the run.
        any_worker: several workers must stop at one step. Called on all of them with whether this one got a
            signal, it says whether any did.
        every_steps: how often the workers ask each other.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(
        self,
        checkpoint: TrainingCheckpoint,
        any_worker: Callable[[bool], bool] | None = None,
        every_steps: int = 10,
    ):
        super().__init__()
        self.checkpoint = checkpoint
        self.any_worker = any_worker
        self.every_steps = every_steps
        self._received = None
        self._previous: dict = {}

    def on_train_begin(self, logs=None):
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}

    def on_train_end(self, logs=None):
        self.restore_handlers()

    def restore_handlers(self) -> None:
        """Give the signals back to whoever handled them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _on_signal(self, number, frame):
        logging.warning("%s: saving after this step; once more ends at once.", signal.Signals(number).name)
        self._received = number
        self.restore_handlers()

    def on_train_batch_end(self, batch, logs=None):
        # An epoch whose last step is done ends first, so that its validation and logs are not lost.
        step = self.checkpoint.step
        if self.checkpoint.mid_epoch(step) and (self.any_worker is None or step % self.every_steps == 0):
            self._stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        asked = self._received is not None
        if asked if self.any_worker is None else self.any_worker(asked):
            self.checkpoint.save()
            done = f"saved after step {self.checkpoint.step}"
            raise TrainingStopped(self._received or signal.SIGTERM, done)
