"""The state of a run on disk, and stopping a run: on a signal, once that is saved, and on a bad loss."""

import contextlib
import math
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import keras
import ml_dtypes
import numpy as np
from absl import logging

from rfd_tf.distribution import DealtVariable
from rfd_tf.files import naming
from rfd_tf.terminal import Stopped

_BYTES_BESIDE = 4096  # of a dataset's own: header, name, place in its group
_STEP_NAME = re.compile(r"step-(\d{10})")


class TrainingCheckpoint(keras.callbacks.Callback):
    """Saves and restores everything a training step depends on, or leaves behind.

    One folder per checkpoint, `step-0000000040/state.h5`: the model's variables (the memory bank and Z among
    them; only its `training_state`, where it has one), the optimizer's, and the running metrics, so that a
    run killed in the middle of an epoch continues it. A folder gets its name by a rename once it is complete
    on disk; what was interrupted has another name and is removed at the next start. `Model.save_weights`
    would leave out running metrics and random states.

    The state at an epoch's last step is saved once the epoch has ended, after validation and logs: put this
    callback behind those that write them.

    Args:
        directory: where the folders go; one per process under several workers.
        steps_per_epoch: optimizer steps of an epoch.
        every_steps: save every so many steps besides at every epoch's end; 0 for epochs only.
        keep: newest checkpoints to keep, at least 1.
        shared_directories: those of other workers on a shared disk. `restore` looks there for the shares of a
            dealt variable that another number of replicas kept.

    Raises:
        ValueError: on an argument out of range, and in `restore` on a checkpoint of another model.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        steps_per_epoch: int,
        every_steps: int = 0,
        keep: int = 3,
        shared_directories: Sequence[str | os.PathLike] = (),
    ):
        super().__init__()
        if steps_per_epoch < 1 or every_steps < 0 or keep < 1:
            raise ValueError(
                "`steps_per_epoch` and `keep` must be >= 1, `every_steps` >= 0. "
                f"Received: {steps_per_epoch=}, {keep=}, {every_steps=}"
            )
        self.directory = Path(directory)
        self.steps_per_epoch = steps_per_epoch
        self.every_steps = every_steps
        self.keep = keep
        self.shared_directories = [Path(other) for other in shared_directories]
        self._metrics_to_restore: list | None = None

    def steps(self) -> list[int]:
        """Steps that a complete checkpoint exists of, ascending."""
        if not self.directory.is_dir():
            return []
        names = (_STEP_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(name.group(1)) for name in names if name)

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""
        return int(self.model.optimizer.iterations.numpy())

    def mid_epoch(self, step: int) -> bool:
        """Whether steps of its epoch remain after `step`."""
        return step % self.steps_per_epoch != 0

    def on_train_batch_end(self, batch, logs=None):
        if self.every_steps and self.step % self.every_steps == 0 and self.mid_epoch(self.step):
            self.save()

    def on_epoch_begin(self, epoch, logs=None):
        # `fit` has just reset the metrics; give the interrupted epoch its running values back, unless the
        # model makes its metrics later: then the epoch's logs are those of its remaining steps.
        if self._metrics_to_restore is not None:
            saved, self._metrics_to_restore = self._metrics_to_restore, None
            if len(saved) == len(self.model.metrics_variables):
                for variable, value in zip(self.model.metrics_variables, saved, strict=True):
                    variable.assign(value)

    def on_epoch_end(self, epoch, logs=None):
        self.save()

    def save(self) -> Path:
        """Write the state after the current step, and remove the oldest checkpoints."""
        final = self._folder(self.step)
        if final.exists():
            return final
        partial = self.directory / f"partial-{os.getpid()}"
        partial.mkdir(parents=True, exist_ok=True)
        try:
            groups = self._groups(self.model)
            with naming(final):
                _make_sure_of_room(partial, groups)
                with h5py.File(partial / "state.h5", "w") as file:
                    for name, variables in groups.items():
                        _write(file.create_group(name), variables)
            _flush_to_disk(partial / "state.h5")
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
        _flush_to_disk(self.directory)
        oldest_kept = self.steps()[-self.keep :][0]
        self.discard(lambda saved: saved < oldest_kept)
        return final

    def discard(self, unwanted: Callable[[int], bool]) -> None:
        """Remove the checkpoints of the steps that `unwanted` says."""
        for step in filter(unwanted, self.steps()):
            doomed = self._folder(step).rename(self.directory / f"partial-discarded-{step}")
            shutil.rmtree(doomed)

    def restore(self, model: keras.Model, step: int) -> None:
        """Set `model` and its optimizer to the state after `step`; its running metrics once `fit` begins."""
        path = self._folder(step) / "state.h5"
        others = [other / self._folder(step).name / "state.h5" for other in self.shared_directories]
        try:
            self._restore(model, path, [other for other in others if other.exists()], self.mid_epoch(step))
        except (OSError, KeyError, RuntimeError, TypeError, AttributeError) as error:  # of h5py
            raise ValueError(f"{path} is damaged ({error}): delete its folder") from error

    def _restore(self, model: keras.Model, path: Path, others: list[Path], with_metrics: bool) -> None:
        with contextlib.ExitStack() as stack:
            file, *further = (stack.enter_context(h5py.File(each, "r")) for each in (path, *others))
            groups = self._groups(model)
            del groups["metrics"]  # many metrics make their variables in the first step only
            for name, variables in groups.items():
                _check_same(variables, file[name], path)
            for name, variables in groups.items():
                for variable, position in zip(variables, sorted(file[name]), strict=True):
                    _assign(variable, [each[name][position] for each in (file, *further)], path)
            if with_metrics:
                self._metrics_to_restore = [stored[()] for _, stored in sorted(file["metrics"].items())]

    def clean(self) -> None:
        """Remove what an interrupted process left unfinished."""
        for path in self.directory.glob("partial-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _folder(self, step: int) -> Path:
        return self.directory / f"step-{step:010d}"

    @staticmethod
    def _groups(model):
        return {
            "model": getattr(model, "training_state", model.variables),
            "optimizer": model.optimizer.variables,
            "metrics": model.metrics_variables,
        }


def _make_sure_of_room(folder: Path, groups) -> None:
    """Raise OSError where the disk or a quota has too little.

    An HDF5 file that cannot be finished may end the process by a segmentation fault, at once or on exit.
    """
    variables = [variable for group in groups.values() for variable in group]
    numbers = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize * len(_shares(v)) for v in variables)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, numbers + _BYTES_BESIDE * (len(variables) + 16))


def _shares(variable) -> dict:
    return variable.shares() if isinstance(variable, DealtVariable) else {0: variable}


def _write(group, variables) -> None:
    """A dataset a variable; a group of datasets, by replica, of one that is dealt to several."""
    for position, variable in enumerate(variables):
        name = f"{position:05d}"
        if isinstance(variable, DealtVariable) and variable.num_replicas > 1:
            stored = group.create_group(name)
            stored.attrs.update(replicas=variable.num_replicas, shape=_whole_shape(variable))
            for replica, share in variable.shares().items():
                stored.create_dataset(str(replica), data=_storable(share.numpy()))
        else:
            stored = group.create_dataset(name, data=_storable(variable.numpy()))
        stored.attrs["path"] = variable.path


def _storable(value: np.ndarray) -> np.ndarray:
    """HDF5 has no bfloat16: its bits, as integers."""
    return value.view("uint16") if value.dtype.name == "bfloat16" else value


def _assign(variable, stored: Sequence, path: Path) -> None:
    """Set a variable to what is stored of it: by this worker, and after it by those whose files can be read.

    A table that was dealt to another number of replicas is dealt anew.
    """
    if isinstance(stored[0], h5py.Dataset):
        replicas, held = 1, {"0": stored[0]}
    else:
        replicas = stored[0].attrs["replicas"]
        alike = [each for each in stored if each.attrs.get("replicas") == replicas]
        held = {name: rows for each in reversed(alike) for name, rows in each.items()}
    dealt_to = variable.num_replicas if isinstance(variable, DealtVariable) else 1
    for replica, share in _shares(variable).items():
        if replicas == dealt_to and str(replica) in held:
            share.assign(_numbers(variable, held[str(replica)]))
            continue
        values = share.numpy()
        rows = np.arange(replica, _stored_shape(stored[0])[0], dealt_to)
        for number in np.unique(rows % replicas):
            if str(number) not in held:
                raise ValueError(
                    f"{path}: {variable.path} was dealt to {replicas} replicas, and the rows of replica "
                    f"{number} are in another worker's checkpoint, which is not beside this one"
                )
            of_number = np.flatnonzero(rows % replicas == number)
            values[of_number] = _numbers(variable, held[str(number)])[rows[of_number] // replicas]
        share.assign(values)


def _numbers(variable, stored: h5py.Dataset) -> np.ndarray:
    value = stored[()]
    return value.view(ml_dtypes.bfloat16) if variable.dtype == "bfloat16" else value


def _stored_shape(stored) -> tuple[int, ...]:
    return stored.shape if isinstance(stored, h5py.Dataset) else tuple(stored.attrs["shape"])


def _check_same(variables, group, path: Path) -> None:
    if len(group) != len(variables):
        raise ValueError(f"{path}: holds {len(group)} variables, this model has {len(variables)}")
    for variable, name in zip(variables, sorted(group), strict=True):
        stored, wanted = _stored_shape(group[name]), _whole_shape(variable)
        if stored != wanted:
            raise ValueError(
                f"{path}: holds {group[name].attrs['path']} {stored} where this model has "
                f"{variable.path} {wanted}"
            )


def _whole_shape(variable) -> tuple[int, ...]:
    shape = tuple(variable.shape)
    return (variable.num_rows, *shape[1:]) if isinstance(variable, DealtVariable) else shape


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
