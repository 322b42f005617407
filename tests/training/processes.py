"""Runs of `rfd train` in processes of their own, small enough for tests."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

from rfd_tf import cli

ROOT = Path(__file__).parents[2]
TINY = {
    "--config": "digits_lt",
    "--config.epochs": "2",
    "--config.batch_size": "32",
    "--config.checkpoint_steps": "3",
    "--config.tensorboard": "False",
    "--config.preprocessing.image_size": "16",
    "--config.preprocessing.resize": "16",
    "--config.backbone.name": "resnet8",
    "--config.backbone.width": "4",
    "--config.backbone.dense_width": "32",
    "--config.optimizer.milestones": "((1,0.03),(2,0.003))",
}
LIMIT = 600  # seconds that a run may take on a stalled machine


def command(workdir, *overrides) -> list[str]:
    return [sys.executable, "-m", "rfd_tf.cli.train", *_arguments(workdir, *overrides)]


def train_here(workdir, *overrides) -> int:
    """`rfd train` in this process, which is faster; the exit status."""
    return cli.main(["rfd", "train", *_arguments(workdir, "--config.deterministic=False", *overrides)])


def _arguments(workdir, *overrides) -> list[str]:
    # Each flag once: ml_collections adds up the tuples of a field that is given twice.
    flags = TINY | dict(override.split("=", 1) for override in overrides)
    return [f"--workdir={workdir}", *(f"{name}={value}" for name, value in flags.items())]


def start(workdir, *overrides, env=None) -> subprocess.Popen:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", **(env or {})}
    return subprocess.Popen(
        command(workdir, *overrides),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and output."""
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output


def run(workdir, *overrides, env=None) -> str:
    """Train to the end; the output."""
    status, output = finish(start(workdir, *overrides, env=env))
    assert status == 0, output
    return output


def stop_at(process: subprocess.Popen, workdir: Path, step: int, number=signal.SIGKILL) -> tuple[int, str]:
    """Send a signal as soon as a checkpoint of `step` or later exists."""
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and latest_step(workdir) < step:
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(0.02)
    process.send_signal(number)
    return finish(process)


def steps(workdir: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (workdir / "checkpoints").glob("step-*"))


def latest_step(workdir: Path) -> int:
    return max(steps(workdir), default=0)


def state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every saved variable of model and optimizer, by path."""
    found = {}
    with h5py.File(workdir / "checkpoints" / f"step-{step:010d}" / "state.h5") as file:
        for group in ("model", "optimizer"):
            for name, dataset in file[group].items():
                found[f"{group}/{name}:{dataset.attrs['path']}"] = dataset[()]
    return found


def assert_same_end(workdir: Path, other: Path) -> None:
    """Bit-equal final states (weights, bank, Z, momentum, step) and equal histories."""
    last = latest_step(workdir)
    assert latest_step(other) == last
    expected, found = state(workdir, last), state(other, last)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert (other / "history.csv").read_text() == (workdir / "history.csv").read_text()
