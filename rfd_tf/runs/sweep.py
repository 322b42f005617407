"""Sweeps: variants of a config, trained and evaluated one by one, and their table."""

import csv
import dataclasses
import io
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rfd_tf.evaluation.results import EVALUATIONS_FOLDER, RESULT_FILE, headline, load_result
from rfd_tf.files import parse_json, write_text
from rfd_tf.terminal import Stopped, end_with_parent, shell_join

_OWN = ("seeds", "variants")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One variant with one seed.

    Attributes:
        variant: its name.
        seed: of the run.
        folder: where it works; `{dir}` of the commands.
        commands: argument lists of `rfd`, to be run one after another.
    """

    variant: str
    seed: int
    folder: Path
    commands: tuple[tuple[str, ...], ...]


def make_plan(config: ConfigDict, workdir: Path) -> list[Cell]:
    """The cells of a sweep, all variants of the first seed first: stopped early, it can be compared.

    Args:
        config: see `configs/sweep/`: `seeds`, a tuple of integers, and `variants`, name -> tuple of command
            lines, as typed in a shell, without their `rfd`. Every other field can stand in a line as
            `{field}`, besides `{seed}` and `{dir}`, the folder of the cell.
        workdir: the sweep's folder.

    Raises:
        ValueError: if there is nothing to run, a name is not that of a folder, a seed comes twice, or a
            command line cannot be read or uses an unknown field.
    """
    seeds = tuple(config.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` must be different integers, one at least. Received: {seeds}")
    variants = config.variants.to_dict()
    if not variants:
        raise ValueError("`variants` is empty")
    fields = {name: value for name, value in config.items() if name not in _OWN}
    return [_cell(name, lines, seed, workdir, fields) for seed in seeds for name, lines in variants.items()]


def _cell(name: str, lines, seed: int, workdir: Path, fields: Mapping[str, object]) -> Cell:
    if not name or "/" in name:
        raise ValueError(f"`variants`: a name must do for a folder. Received: {name!r}")
    folder = workdir / name / f"seed-{seed}"
    known = {**fields, "seed": seed, "dir": shlex.quote(str(folder))}
    if isinstance(lines, str) or not lines:
        raise ValueError(f"`variants`: {name} must be a tuple of command lines. Received: {lines!r}")
    return Cell(name, seed, folder, tuple(_arguments(name, line, known) for line in lines))


def _arguments(name: str, line: str, known: Mapping[str, object]) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(line.format_map(known)))
    except KeyError as error:
        raise ValueError(
            f"`variants`: {name} uses {{{error.args[0]}}}, which is not a field: {line}"
        ) from None
    except (ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"`variants`: {name} has an unreadable command line ({error}): {line}") from None


RAW, TABLE, MARKDOWN = "raw.csv", "table.csv", "table.md"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One accuracy of one cell, in percent."""

    variant: str
    seed: int
    evaluation: str
    classifier: str
    measure: str
    value: float


def collect(cells: Sequence[Cell]) -> list[Figure]:
    """Every accuracy in the cells' results: of the run itself and of the evaluations below it."""
    return [figure for cell in cells for path in _results(cell.folder) for figure in _figures(cell, path)]


def write_tables(cells: Sequence[Cell], workdir: Path) -> str:
    """Write `raw.csv`, `table.csv` and `table.md`, with the commands; the Markdown."""
    figures = collect(cells)
    rows = [dataclasses.astuple(figure) for figure in figures]
    fields = [field.name for field in dataclasses.fields(Figure)]
    write_text(workdir / RAW, _csv([fields, *rows]))
    groups = _groups(figures)
    header = ["evaluation", "classifier", "measure", "variant", "mean", "standard deviation", "seeds"]
    moments = [[*key, *_moments(values)] for key, values in groups.items()]
    write_text(workdir / TABLE, _csv([header, *moments]))
    markdown = _markdown(groups, cells)
    write_text(workdir / MARKDOWN, markdown)
    return markdown


def _results(folder: Path) -> list[Path]:
    found = [*folder.glob(RESULT_FILE), *folder.glob(f"{EVALUATIONS_FOLDER}/*/{RESULT_FILE}")]
    return sorted(found)


def _figures(cell: Cell, path: Path) -> list[Figure]:
    result = load_result(path)
    name = result.protocol if path.parent == cell.folder else path.parent.name
    found = []
    for classifier, figures in result.figures.items():
        found += [
            Figure(cell.variant, cell.seed, name, classifier, measure, round(100 * value, 4))
            for measure, value in headline(figures).items()
            if value is not None and measure != "top-5"
        ]
    return found


def _groups(figures: Sequence[Figure]) -> dict[tuple[str, str, str, str], list[float]]:
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for f in figures:
        groups.setdefault((f.evaluation, f.classifier, f.measure, f.variant), []).append(f.value)
    return groups


def _moments(values: Sequence[float]) -> tuple[str, str, int]:
    deviation = f"{np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}", deviation, len(values)


def _markdown(groups, cells: Sequence[Cell]) -> str:
    """A table for each evaluation and classifier, variants by measures; then the commands."""
    parts = []
    for evaluation, classifier in dict.fromkeys(key[:2] for key in groups):
        here = {key[2:]: values for key, values in groups.items() if key[:2] == (evaluation, classifier)}
        measures = list(dict.fromkeys(measure for measure, _ in here))
        variants = list(dict.fromkeys(variant for _, variant in here))
        lines = [
            f"### {evaluation}, {classifier}",
            "",
            f"| accuracy in % | {' | '.join(measures)} | seeds |",
            f"|---|{'---:|' * (len(measures) + 1)}",
        ]
        for variant in variants:
            values = [here.get((measure, variant), []) for measure in measures]
            lines.append(f"| {variant} | {' | '.join(map(_spread, values))} | {max(map(len, values))} |")
        parts.append("\n".join(lines))
    commands = [command_line(arguments) for cell in cells for arguments in cell.commands]
    listed = "\n".join(f"    {command}" for command in commands)
    return "\n\n".join([*parts, "Mean and standard deviation over seeds. The commands:", listed]) + "\n"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean, deviation, _ = _moments(values)
    return f"{float(mean):.1f} ± {float(deviation):.1f}" if deviation else f"{float(mean):.1f}"


def _csv(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


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
