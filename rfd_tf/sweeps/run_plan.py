"""Runs the cells of a sweep, each command in a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rfd_tf.atomic import write_text
from rfd_tf.json_text import parse_json
from rfd_tf.shell import shell_join
from rfd_tf.stop_signals import Stopped, end_with_parent
from rfd_tf.sweeps.plan import Cell

_POLL_SECONDS = 0.2
_GIB = 2**30


class SweepStopped(Stopped):
    """A signal ended the sweep; its commands were told to save and stop."""


@dataclasses.dataclass
class _Running:
    cell: Cell
    number: int  # of the command, from 0
    process: subprocess.Popen
    log: Path


def run_plan(
    cells: Sequence[Cell],
    jobs: int,
    job_memory: float,
    stop_asked: Callable[[], int | None],
    report: Callable[[str], None] = print,
    program: Sequence[str] = (sys.executable, "-m", "rfd_tf.cli"),
) -> dict[Cell, Path]:
    """Run what has not been run; the cells whose command failed, with its log.

    A cell whose command fails is left at that, the others go on. Beside each cell's folder are the logs of
    its commands, and a list of those that have ended well, which the next call passes over.

    Args:
        cells: of one sweep.
        jobs: cells at a time, at most.
        job_memory: GiB that must be free before another cell is begun while some run.
        stop_asked: a signal's number once the sweep shall stop, else None.
        report: given a line for each beginning and end.
        program: what a command is run with.

    Raises:
        ValueError: if a cell's folder is one of other commands.
        SweepStopped: when asked to.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be at least 1. Received: jobs={jobs}")
    waiting = [(cell, done) for cell in cells if (done := _done(cell)) < len(cell.commands)]
    running: list[_Running] = []
    failed: dict[Cell, Path] = {}
    count, total = len(cells) - len(waiting), len(cells)
    report(f"{count} of {total} done")
    try:
        while waiting or running:
            while waiting and len(running) < jobs and (not running or _free_memory() >= job_memory):
                running.append(_start(*waiting.pop(0), program, report))
            time.sleep(_POLL_SECONDS)
            if (number := stop_asked()) is not None:
                raise SweepStopped(number, f"{count} of {total} experiments are done")
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                if job.process.returncode:
                    failed[job.cell] = job.log
                    report(f"{_title(job.cell)}: FAILED, see {job.log}")
                    continue
                _note_done(job.cell, job.number + 1)
                if job.number + 1 < len(job.cell.commands):
                    running.append(_start(job.cell, job.number + 1, program, report))
                else:
                    count += 1
                    report(f"{_title(job.cell)}: done ({count} of {total})")
    finally:
        _stop(running)
    return failed


def command_line(arguments: Sequence[str]) -> str:
    """As one would type it."""
    return f"rfd {shell_join(arguments)}"


def _title(cell: Cell) -> str:
    return f"{cell.variant}, seed {cell.seed}"


def _free_memory() -> float:
    """GiB that new processes can have without swapping."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return kilobytes * 1024 / _GIB


def _beside(cell: Cell, name: str) -> Path:
    """A file of ours; the folder itself belongs to the commands."""
    return cell.folder.with_name(f"{cell.folder.name}.{name}")


def _done(cell: Cell) -> int:
    """How many of the cell's commands have ended well."""
    path = _beside(cell, "done.json")
    if not path.exists():
        return 0
    done = parse_json(path.read_text(encoding="utf-8"))
    now = [command_line(arguments) for arguments in cell.commands]
    if done != now[: len(done)]:
        other = next((line for line in done if line not in now), done[-1])
        raise ValueError(
            f"{cell.folder} holds what another command made: {other}. Give a new --workdir, or another name "
            "to the variant"
        )
    return len(done)


def _note_done(cell: Cell, count: int) -> None:
    done = [command_line(arguments) for arguments in cell.commands[:count]]
    write_text(_beside(cell, "done.json"), json.dumps(done, indent=1) + "\n")


def _start(cell: Cell, number: int, program: Sequence[str], report: Callable[[str], None]) -> _Running:
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    log = _beside(cell, f"log-{number + 1}.txt")
    report(f"{_title(cell)}: {command_line(cell.commands[number])}")
    with open(log, "ab") as file:
        # In a session of its own, so that a Ctrl-C reaches it once, from here.
        process = subprocess.Popen(
            [*program, *cell.commands[number]],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            # Else it would go on alone, holding its folder, when the sweep itself is killed.
            preexec_fn=end_with_parent,
        )
    return _Running(cell, number, process, log)


def _stop(running: Sequence[_Running]) -> None:
    """Tell the commands to save and stop, and wait until they have."""
    for job in running:
        job.process.terminate()
    for job in running:
        job.process.wait()
