import signal
import threading

import keras
from absl import logging

from rfd_tf.callbacks.training_checkpoint import TrainingCheckpoint


class TrainingStopped(Exception):  # noqa: N818 - not an error: the run can be continued
    """Training ended on a signal, its state saved."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"Stopped by {signal.Signals(signal_number).name} after step {step}; state saved.")
        self.signal_number = signal_number


class GracefulStop(keras.callbacks.Callback):
    """On SIGTERM or Ctrl-C: finish the step, save a checkpoint, raise `TrainingStopped`.

    A second signal ends the process at once. Acts in the main thread only, where Python handles signals.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, checkpoint: TrainingCheckpoint):
        super().__init__()
        self.checkpoint = checkpoint
        self._received = None

    def on_train_begin(self, logs=None):
        self._previous = {}
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
        if self.checkpoint.mid_epoch(self.checkpoint.step):
            self._stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._received is not None:
            self.checkpoint.save()
            raise TrainingStopped(self._received, self.checkpoint.step)
