"""What training tells at a terminal: a bar that goes, and one line an epoch that stays."""

import sys
import time
from collections.abc import Mapping

import keras

from rfd_tf.terminal import progress_bar

_WIDTH = 79
_SHARES = ("accuracy", "top1", "top5")


class EpochSummary(keras.callbacks.Callback):
    """Prints a line of at most 79 characters after every epoch, and shows a bar where someone watches.

    Put it after callbacks that add to the logs, and give `fit` `verbose=0`.

    Args:
        epochs: of the whole training, of which `fit` may do a part.
    """

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs
        self._bar, self._since = None, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._since = time.monotonic()
        if sys.stdout.isatty() and sys.stderr.isatty():
            steps = self.params.get("steps")
            self._bar = progress_bar(f"Epoch {epoch + 1}/{self.epochs}", steps, unit="step", leave=False)

    def on_train_batch_end(self, batch, logs=None):
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self._close()
        print(epoch_line(epoch, self.epochs, logs or {}, time.monotonic() - self._since), flush=True)

    def on_train_end(self, logs=None):
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def epoch_line(epoch: int, epochs: int, logs: Mapping[str, float], seconds: float) -> str:
    """An epoch in at most 79 characters: its loss, then accuracies, then what else there is room for.

    Args:
        epoch: counted from 0.
        epochs: of the whole training.
        logs: of the epoch; validation figures (`val_NAME`) stand in brackets behind those of training.
        seconds: that it took.
    """
    line = f"Epoch {epoch + 1}/{epochs} {_duration(seconds)}"
    names = [name for name in logs if not name.startswith("val_") or name.removeprefix("val_") not in logs]
    label = "val "  # once is enough
    for name in sorted(names, key=_rank):
        piece = f"  {name.removesuffix('_accuracy')} {_shown(name, logs[name])}"
        if f"val_{name}" in logs:
            piece += f" ({label}{_shown(name, logs[f'val_{name}'])})"
        if len(line) + len(piece) <= _WIDTH:
            line += piece
            label = "" if f"val_{name}" in logs else label
    return line


def _rank(name: str) -> int:
    """Of equal ranks, the order of the logs."""
    return 0 if name == "loss" else 1 if name == "rotation_accuracy" else 2 if name.endswith(_SHARES) else 3


def _shown(name: str, value: float) -> str:
    return f"{value:.1%}" if name.endswith(_SHARES) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"
