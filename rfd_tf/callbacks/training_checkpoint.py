import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np

from rfd_tf.files import naming

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

    Raises:
        ValueError: on an argument out of range, and in `restore` on a checkpoint of another model.
    """

    def __init__(
        self, directory: str | os.PathLike, steps_per_epoch: int, every_steps: int = 0, keep: int = 3
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
        try:
            self._restore(model, path, self.mid_epoch(step))
        except (OSError, KeyError, RuntimeError, TypeError, AttributeError) as error:  # of h5py
            raise ValueError(f"{path} is damaged ({error}): delete its folder") from error

    def _restore(self, model: keras.Model, path: Path, with_metrics: bool) -> None:
        with h5py.File(path, "r") as file:
            groups = self._groups(model)
            del groups["metrics"]  # many metrics make their variables in the first step only
            for name, variables in groups.items():
                _check_same(variables, file[name], path)
            for name, variables in groups.items():
                for variable, value in zip(variables, _values(file[name]), strict=True):
                    variable.assign(value)
            if with_metrics:
                self._metrics_to_restore = list(_values(file["metrics"]))

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
    numbers = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, numbers + _BYTES_BESIDE * (len(variables) + 16))


def _write(group, variables) -> None:
    for position, variable in enumerate(variables):
        dataset = group.create_dataset(f"{position:05d}", data=variable.numpy())
        dataset.attrs["path"] = variable.path


def _values(group):
    return (group[name][()] for name in sorted(group))


def _check_same(variables, group, path: Path) -> None:
    if len(group) != len(variables):
        raise ValueError(f"{path}: holds {len(group)} variables, this model has {len(variables)}")
    for variable, name in zip(variables, sorted(group), strict=True):
        if group[name].shape != tuple(variable.shape):
            raise ValueError(
                f"{path}: holds {group[name].attrs['path']} {group[name].shape} where this model has "
                f"{variable.path} {tuple(variable.shape)}"
            )


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
