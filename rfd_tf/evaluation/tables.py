"""The figures of an evaluation as tables, in percent."""

from rfd_tf.evaluation.results import ClassifierFigures, EvaluationResult


def text_table(result: EvaluationResult) -> str:
    """For a terminal: one line per classifier."""
    rows = _rows(result)
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
    extras = list(dict.fromkeys(name for figures in result.figures.values() for name in figures.extra))
    columns = ["top-1", "top-5", "balanced", *_groups(result), *(name.replace("_", " ") for name in extras)]
    return [
        ["accuracy in %", *columns],
        *([name, *_cells(figures, _groups(result), extras)] for name, figures in result.figures.items()),
    ]


def _groups(result: EvaluationResult) -> list[str]:
    """The shot groups that have classes."""
    found = [
        name
        for figures in result.figures.values()
        for name, v in figures.shot_groups.items()
        if v is not None
    ]
    return list(dict.fromkeys(found))


def _cells(figures: ClassifierFigures, groups: list[str], extras: list[str]) -> list[str]:
    accuracies = [figures.top1, figures.top5, figures.balanced_accuracy]
    accuracies += [figures.shot_groups.get(name) for name in groups]
    shown = ["" if value is None else f"{100 * value:.1f}" for value in accuracies]
    return shown + [f"{figures.extra[name]:g}" if name in figures.extra else "" for name in extras]
