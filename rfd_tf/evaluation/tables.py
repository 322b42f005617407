"""The figures of an evaluation as tables, in percent."""

from rfd_tf.evaluation.results import EvaluationResult, Figures, MultiLabelFigures

PERCENT = ("top1", "map", "map_std")  # ends of names of further figures that are shares


def text_table(result: EvaluationResult) -> str:
    """For a terminal: one line per classifier; of multi-label figures then one per class; notes last."""
    tables = [_aligned(_rows(result))]
    if precisions := _class_rows(result):
        tables.append(_aligned(precisions))
    return "\n\n".join([*tables, *result.notes])


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row):
        first, *rest = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join([first, *rest]).rstrip()

    header, *body = map(line, rows)
    return "\n".join([header, "-" * len(header), *body])


def markdown_table(result: EvaluationResult) -> str:
    """For a document."""
    header, *body = [[cell.replace("|", "\\|") for cell in row] for row in _rows(result)]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *body))


def _rows(result: EvaluationResult) -> list[list[str]]:
    """Cells, the header first; columns without a figure are left out."""
    cells = {name: _cells(figures) for name, figures in result.figures.items()}
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    columns = [column for column in columns if any(row.get(column) for row in cells.values())]
    body = [[name, *(row.get(column, "") for column in columns)] for name, row in cells.items()]
    return [["accuracy in %", *columns], *body]


def _class_rows(result: EvaluationResult) -> list[list[str]]:
    """11-point average precision of each class by classifier; empty where there are no such figures."""
    found = {
        name: figures.average_precision["11_point"]
        for name, figures in result.figures.items()
        if isinstance(figures, MultiLabelFigures)
    }
    body = [
        [label, *("" if values[row] is None else f"{100 * values[row]:.1f}" for values in found.values())]
        for row, label in enumerate(result.class_names)
    ]
    return [["11-point AP in %", *found], *body] if found else []


def headline(figures: Figures) -> dict[str, float | None]:
    """The figures of a classifier that tables show, by title; in [0, 1]."""
    if isinstance(figures, MultiLabelFigures):
        return {f"mAP, {rule.replace('_', '-')}": v for rule, v in figures.mean_average_precision.items()}
    return {
        "top-1": figures.top1,
        "top-5": figures.top5,
        "balanced": figures.balanced_accuracy,
        **figures.shot_groups,
    }


def _cells(figures: Figures) -> dict[str, str]:
    accuracies = headline(figures)
    shown = {name: "" if value is None else f"{100 * value:.1f}" for name, value in accuracies.items()}
    return shown | {_title(name): _extra(name, value) for name, value in figures.extra.items()}


def _title(name: str) -> str:
    return name.replace("_", " ").replace("top1", "top-1")


def _extra(name: str, value: float) -> str:
    return f"{100 * value:.1f}" if name.endswith(PERCENT) else f"{value:g}"
