"""The results of a sweep as tables."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfd_tf.atomic import write_text
from rfd_tf.evaluation.results import EVALUATIONS_FOLDER, RESULT_FILE, load_result
from rfd_tf.evaluation.tables import headline
from rfd_tf.sweeps.plan import Cell
from rfd_tf.sweeps.run_plan import command_line

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
