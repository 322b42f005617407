"""What every run begins with: a config in range, devices, seeds, precision, and a folder of its own."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import distribution
from rfd_tf.files import parse_json
from rfd_tf.models.libraries import imported
from rfd_tf.precision import AUTO, resolved_policy
from rfd_tf.runs.provenance import here_and_now, stopwatch
from rfd_tf.runs.workdir import CACHE_FOLDER, CONFIG_FILE, check_workdir, claim_workdir, lock_workdir

DTYPE_POLICIES = ("float32", "mixed_bfloat16", AUTO)
_SECONDS_FILE = "seconds.txt"


@dataclasses.dataclass(frozen=True)
class HeldFolder:
    """A run's folder that no other process can use now.

    Attributes:
        claim: records whose folder it is. To be called once everything is known to be in order.
        provenance: gives `command`, `settings`, `seconds` (of all processes that have worked on the run),
            `machine`, `versions` and `date`, as results keep them.
    """

    claim: Callable[[], None]
    provenance: Callable[[], dict]


@dataclasses.dataclass(frozen=True)
class Run:
    """One process's part of a run.

    Attributes:
        config: with `batch_size`, `epochs`, `seed`, `strategy`, `checkpoint_steps` and `keep_checkpoints`.
        workdir: folder of this worker.
        strategy: of `distribution.create_strategy`.
        worker: number of this process, the first is 0.
        command: the command line, for the record.
    """

    config: ConfigDict
    workdir: Path
    strategy: Any = None
    worker: int = 0
    command: str = ""

    @property
    def cache(self) -> Path:
        """The folder of what can be made again, there from the first use on."""
        folder = self.workdir / CACHE_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def hold_folder(self, owner: dict) -> Iterator[HeldFolder]:
        """Keep the folder for this process, and count its time.

        Args:
            owner: the config, and what else makes this run another than others.

        Raises:
            WorkdirError: if it holds another run, or another process works on it.
        """
        check_workdir(self.workdir, owner)
        with (
            lock_workdir(self.workdir),
            stopwatch(self.cache / _SECONDS_FILE) as seconds,
            distribution.lost_workers_named(self.strategy),
        ):
            yield HeldFolder(
                lambda: claim_workdir(self.workdir, owner),
                lambda: {
                    "command": self.command,
                    "settings": self.config.to_dict(),
                    "seconds": round(seconds(), 1),
                    **here_and_now(),
                },
            )

    def workers_folders(self) -> list[Path]:
        """Of all workers that this disk has, now or before."""
        first = self.workdir.parent if self.worker else self.workdir
        return [first, *first.glob("worker-*")]

    def part(self, name: str) -> "Run":
        """The run of a part of the work, in a folder within this one."""
        folder = self.workdir / name
        folder.mkdir(exist_ok=True)
        return dataclasses.replace(self, workdir=folder)


def start_run(config: ConfigDict, workdir: str | os.PathLike, command: str = "") -> Run:
    """Set up devices, seeds, precision and determinism as configured; nothing is written yet.

    Args:
        config: the run's. Its `dtype_policy="auto"` becomes what that is here, or what the run in `workdir`
            began with.
        workdir: the run's folder. Workers other than the first have theirs in `workdir/worker-N`.
        command: the command line, for the record.

    Raises:
        ValueError: where a field that every run has is out of range.
    """
    check_run_values(config)
    strategy = distribution.create_strategy(config.strategy, config.logical_cpus)
    keras.utils.set_random_seed(config.seed)
    worker = distribution.worker_index(strategy)
    folder = Path(workdir) / (f"worker-{worker}" if worker else "")
    if config.dtype_policy == AUTO:
        config.dtype_policy = _policy_of_run(folder) or resolved_policy(AUTO)
    keras.config.set_dtype_policy(config.dtype_policy)
    if config.deterministic:
        # A scatter's order does not matter to the bank: the rows of a batch are distinct. TensorFlow's
        # deterministic one would copy the whole table to the host and back in every step on a GPU.
        os.environ["TF_DISABLE_SCATTER_OP_DETERMINISM"] = "1"
        tf.config.experimental.enable_op_determinism()
    return Run(config, folder, strategy, worker, command)


def _policy_of_run(workdir: Path) -> str | None:
    """The dtype policy that the run in a folder began with; None where there is none to be read."""
    try:
        policy = parse_json((workdir / CONFIG_FILE).read_bytes())["dtype_policy"]
    except (OSError, ValueError, TypeError, KeyError):
        return None  # `check_workdir` says what is wrong with it
    return policy if policy in DTYPE_POLICIES else None


def check_run_values(config: ConfigDict) -> None:
    """Raise ValueError where the fields that every run has are out of range."""
    if config.epochs < 1:
        raise ValueError(f"`epochs` must be at least 1. Received: epochs={config.epochs}")
    if config.dtype_policy not in DTYPE_POLICIES:
        raise ValueError(f"`dtype_policy` must be one of {DTYPE_POLICIES}. Received: {config.dtype_policy!r}")
    if config.strategy == "multi_worker" and config.keep_checkpoints < 2:
        raise ValueError("Workers may be one checkpoint apart when they are killed: `keep_checkpoints` >= 2")
    if config.get("kind") == "pretrain" and config.get("preprocessing", {}).get("augment"):
        raise ValueError(
            "`preprocessing.augment` is for training on labels (`--config=classify`, `rfd evaluate`): it "
            "turns and mixes images, and pretraining tells rotations and instances apart. "
            f"Received: {tuple(config.preprocessing.augment)}"
        )
    callback_factories(config)


def callback_factories(config: ConfigDict) -> dict[str, Callable]:
    """What `config.callbacks` names, imported: functions of (config, workdir) that return Keras callbacks.

    Raises:
        ValueError: where there is no such module or function. The message says which.
    """
    found: dict[str, Callable] = {}
    for name in config.get("callbacks", ()):
        found[name] = imported(name, "callbacks", "factory")
    return found
