"""A day of training, compressed: many checkpoints, and stops at random moments, until the run ends.

    python -m benchmarks.day_of_training --folder=/tmp/day [--workers=2] [--steps=2000] [--stops=200]

A tiny `rfd train` with a checkpoint at every step runs twice, in processes as users start them: undisturbed,
which shows what one long life of a process gathers, and stopped again and again by SIGKILL, SIGTERM or SIGINT
and started again by the same command. What every life holds at the same age, what lies on the disk after it,
and both ends are compared.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from benchmarks.harness import spread
from rfd_tf.files import write_text
from rfd_tf.runs.provenance import machine, now, versions

BATCH = 8
STEPS_PER_EPOCH = 68  # the 544 images of `digits_lt` in batches of 8
AGE = 20  # steps of its life at which every process is looked at
LIMIT = 900.0  # seconds within which something must happen
NOTICED = 120.0  # seconds within which a worker that was not hit ends, too
MIB = 2**20
_FLAGS = (
    "--config=digits_lt",
    f"--config.batch_size={BATCH}",
    "--config.checkpoint_steps=1",
    "--config.tensorboard=False",
    "--config.preprocessing.image_size=16",
    "--config.preprocessing.resize=16",
    "--config.backbone.name=resnet8",
    "--config.backbone.width=4",
    "--config.backbone.dense_width=32",
    "--config.optimizer.milestones=((1,0.003),(2,0.001))",
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: the same command for all of its lives.

    Attributes:
        folder: holds the workdir, the processes' logs and their folder for temporary files.
        epochs: of `STEPS_PER_EPOCH` checkpoints each.
        cluster: host and port of each worker; empty on one device.
    """

    folder: Path
    epochs: int
    cluster: tuple[str, ...] = ()

    @property
    def workdir(self) -> Path:
        return self.folder / "run"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def steps(self) -> int:
        return self.epochs * STEPS_PER_EPOCH

    def start(self) -> list[subprocess.Popen]:
        """Its processes, one a worker; their output is added to `worker-N.log`."""
        self.temporary.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "rfd_tf.cli.train", f"--workdir={self.workdir}"),
            *_FLAGS,
            f"--config.epochs={self.epochs}",
            *(("--config.strategy=multi_worker",) if self.cluster else ()),
        ]
        started = []
        for index in range(max(1, len(self.cluster))):
            quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(self.temporary)}
            if self.cluster:
                task = {"type": "worker", "index": index}
                quiet["TF_CONFIG"] = json.dumps({"cluster": {"worker": self.cluster}, "task": task})
            with open(self.folder / f"worker-{index}.log", "ab") as log:
                started.append(subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log))
        return started

    def last_step(self) -> int:
        """The newest checkpoint that all workers have."""
        folders = [self.workdir, *(self.workdir / f"worker-{i}" for i in range(1, len(self.cluster)))]
        return min(_newest(folder / "checkpoints") for folder in folders)

    def state(self) -> dict[str, np.ndarray]:
        """Every variable of the last checkpoint: weights, bank, momentum, step, random states."""
        name = f"step-{self.last_step():010d}"
        with h5py.File(self.workdir / "checkpoints" / name / "state.h5") as file:
            return {
                f"{group}/{key}:{stored.attrs['path']}": stored[()]
                for group in ("model", "optimizer")
                for key, stored in file[group].items()
            }

    def disk(self) -> dict[str, int]:
        """Files and bytes of the workdir; files that bear temporary names, and those in `$TMPDIR`."""
        sizes = _sizes(self.workdir)
        partial = [path for path in sizes if "partial" in path]
        return {
            "files": len(sizes),
            "bytes": sum(sizes.values()),
            "temporary": len(partial) + len(_sizes(self.temporary)),
        }


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files below a folder in which others write and remove."""
    sizes = {}
    for parent, _, names in os.walk(folder):  # passes over folders that are gone
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):
                sizes[os.path.relpath(path, folder)] = os.stat(path).st_size
    return sizes


def _newest(folder: Path) -> int:
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(name[5:]) for name in names if name.startswith("step-")), default=0)


def look_at(process: subprocess.Popen) -> dict[str, int] | None:
    """Resident bytes, threads and open file descriptors; None once it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        descriptors = len(os.listdir(f"/proc/{process.pid}/fd"))
        return {
            "resident": int(fields["VmRSS"].split()[0]) * 1024,
            "threads": int(fields["Threads"]),
            "descriptors": descriptors,
        }
    except (FileNotFoundError, ProcessLookupError, PermissionError, KeyError):
        return None


@dataclasses.dataclass(frozen=True)
class Stop:
    """How a life shall end.

    Attributes:
        signal: that is sent.
        workers: that it is sent to.
        steps: of this life, after which; None: at any moment, be it before the first step.
        delay: seconds more.
    """

    signal: int
    workers: tuple[int, ...]
    steps: int | None
    delay: float


def draw_stop(rng: random.Random, workers: int, mean_steps: float, starting: float) -> Stop:
    """A quarter while it starts, which takes `starting` seconds; the others by steps, spread evenly.

    A worker that is killed alone, or stopped before it can agree with others, is missed by these only after
    half a minute. Then all are hit; one alone gets signals that workers agree about.
    """
    everyone = tuple(range(workers))
    if rng.random() < 0.25:
        return Stop(signal.SIGKILL, everyone, None, rng.uniform(0.2, 1) * starting)
    number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    alone = number != signal.SIGKILL and rng.random() < 0.7
    hit = (rng.randrange(workers),) if alone else everyone
    return Stop(number, hit, rng.randint(1, max(1, round(2 * mean_steps))), rng.choice([0, 0, 0.003, 0.05]))


def live(job: Job, stop: Stop | None = None, sample_steps: int = 0) -> dict:
    """One life of the job's processes: what it was, and what was seen.

    Raises:
        RuntimeError: where the processes end by themselves with an error, or do not end.
    """
    first, began = job.last_step(), time.monotonic()
    started, processes = 0.0, job.start()
    at_age, samples = None, []
    step, progress, ended_first, hit = first, began, None, False
    try:
        while any(process.poll() is None for process in processes):
            now = time.monotonic()
            if (reached := job.last_step()) > step:
                started = started or now - began
                if sample_steps and reached // sample_steps > step // sample_steps:
                    samples.append({"step": reached, "workers": _all_looks(processes), **job.disk()})
                step, progress = reached, now
            if at_age is None and step - first >= AGE:
                at_age = _all_looks(processes)
            if stop and not hit and _is_due(stop, now - began, step - first):
                time.sleep(stop.delay if stop.steps is not None else 0)
                for worker in stop.workers:
                    processes[worker].send_signal(stop.signal)
                hit, progress = True, time.monotonic()
            if ended_first is None and any(process.poll() is not None for process in processes):
                ended_first = now
            if ended_first and now - ended_first > NOTICED:
                raise RuntimeError(f"A worker goes on without the other, see {job.folder}")
            if now - progress > LIMIT:
                raise RuntimeError(f"Nothing happens any more, see {job.folder}")
            time.sleep(0.005)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
    codes = [process.returncode for process in processes]
    expected = {0, *((-stop.signal, 128 + stop.signal, 128 + signal.SIGTERM) if stop and hit else ())}
    if stop and hit and len(codes) > 1:
        # A worker that lost the other, because the signal came where it ends a process at once.
        expected.add(1)
    if not set(codes) <= expected:
        raise RuntimeError(f"Ended with {codes} after {stop}, see {job.folder}")
    return {
        "signal": signal.Signals(stop.signal).name if stop and hit else None,
        "hit_workers": stop.workers if stop and hit else (),
        "codes": codes,
        "steps": max(0, job.last_step() - first),
        "seconds": round(time.monotonic() - began, 2),
        "seconds_to_first_step": round(started, 2),
        "at_age": at_age,
        "samples": samples,
        "disk": job.disk(),
    }


def _is_due(stop: Stop, seconds: float, steps: int) -> bool:
    return seconds >= stop.delay if stop.steps is None else steps >= stop.steps


def _all_looks(processes: Sequence[subprocess.Popen]) -> list:
    return [look_at(process) for process in processes]


def disturbed(job: Job, stops: int, seed: int, starting: float, seconds: float = float("inf")) -> list[dict]:
    """Lives until the run has ended, all but the last stopped.

    Args:
        stops: how many.
        seed: of their moments.
        starting: seconds from a start to the first step.
        seconds: after which the run is no longer stopped.
    """
    rng, lives, begin = random.Random(seed), [], time.monotonic()
    while True:
        mean = (job.steps - 1 - job.last_step()) / (stops - len(lives) + 1)
        stopping = len(lives) < stops and time.monotonic() - begin < seconds
        stop = draw_stop(rng, max(1, len(job.cluster)), mean, starting) if stopping else None
        lives.append(live(job, stop))
        print(json.dumps(lives[-1]), flush=True)
        if not any(lives[-1]["codes"]):
            return lives


def difference(job: Job, other: Job) -> float:
    """The largest deviation of any variable at the end, as a share of its largest value; 0: bit-equal."""
    expected, found = job.state(), other.state()
    if expected.keys() != found.keys():
        raise ValueError("The ends have other variables")
    deviations = [
        float(abs(found[name].astype(float) - value).max() / max(1.0, abs(value.astype(float)).max()))
        for name, value in expected.items()
        if value.size
    ]
    return max(deviations)


def same_history(job: Job, other: Job) -> bool:
    return (job.workdir / "history.csv").read_bytes() == (other.workdir / "history.csv").read_bytes()


def summary(whole: Job, calm: dict, broken: Job, lives: list[dict]) -> dict:
    """The figures of both runs."""
    figures: dict = {
        "checkpoints": sum(each["steps"] for each in lives),
        "starts": len(lives),
        "stops": {name: sum(each["signal"] == name for each in lives) for name in _SIGNALS},
        "stops_before_a_step": sum(bool(each["signal"]) and not each["steps"] for each in lives),
        "stops_with_a_lost_worker": sum(1 in each["codes"] for each in lives),
        "seconds": round(sum(each["seconds"] for each in lives)),
        "seconds_undisturbed": calm["seconds"],
        "difference": difference(whole, broken),
        "same_history": same_history(whole, broken),
        "temporary_at_the_end": broken.disk()["temporary"],
        "most_temporary_after_a_stop": max(each["disk"]["temporary"] for each in lives),
        "disk_after_a_stop": _first_and_last([each["disk"] for each in lives if each["steps"]]),
        "disk_undisturbed": _first_and_last(calm["samples"]),
    }
    for worker in range(len(calm["codes"])):
        aged = [each["at_age"][worker] for each in lives if each["at_age"] and each["at_age"][worker]]
        within = [sample["workers"][worker] for sample in calm["samples"] if sample["workers"][worker]]
        figures[f"worker {worker}, at step {AGE} of its life"] = _first_and_last(aged)
        figures[f"worker {worker}, within one life"] = _first_and_last(within)
    return figures


_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")


def _first_and_last(looks: list[dict]) -> dict:
    """Of each figure, the median of the first and the last fifth, the least and the most, and how many."""
    if not looks:
        return {}
    few = max(1, len(looks) // 5)
    found = {}
    for name in looks[0]:
        if isinstance(looks[0][name], int) and name != "step":
            values = [look[name] for look in looks]
            found[name] = {
                "first": float(np.median(values[:few])),
                "last": float(np.median(values[-few:])),
                **spread(values),
            }
    return found


def table(figures: dict) -> str:
    """The figures as lines of text."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict) and any(isinstance(each, dict) for each in value.values()):
            for what, each in value.items():
                unit, size = ("MiB", MIB) if what in ("resident", "bytes") else ("", 1)
                shown = " ".join(f"{key} {each[key] / size:.6g}" for key in ("first", "last", "low", "high"))
                lines.append(f"{name}, {what}: {shown} {unit} ({each['rounds']} looks)")
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="new; what was measured goes there")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=1)
    parser.add_argument("--steps", type=int, default=2000, help="checkpoints; rounded up to whole epochs")
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop it no more after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ports", type=int, default=29500, help="the first of one for each of two workers")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    epochs = -(-arguments.steps // STEPS_PER_EPOCH)
    first = arguments.ports
    cluster = tuple(f"127.0.0.1:{first + i}" for i in range(2)) if arguments.workers == 2 else ()
    whole = Job(arguments.folder / "whole", epochs, cluster)
    broken = Job(arguments.folder / "broken", epochs, cluster)
    calm = live(whole, sample_steps=50)
    print(json.dumps(calm), flush=True)
    lives = disturbed(
        broken, arguments.stops, arguments.seed, calm["seconds_to_first_step"], arguments.seconds
    )
    figures = summary(whole, calm, broken, lives)
    print(table(figures))
    record = {
        "command": shlex.join(["python", "-m", "benchmarks.day_of_training", *sys.argv[1:]]),
        "measured": now(),
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
        "undisturbed": calm,
        "lives": lives,
    }
    write_text(arguments.folder / "day_of_training.json", json.dumps(record, indent=1) + "\n")
    tolerance = 1e-4 if cluster else 0.0
    return 0 if figures["difference"] <= tolerance and not figures["temporary_at_the_end"] else 1


if __name__ == "__main__":
    sys.exit(main())
