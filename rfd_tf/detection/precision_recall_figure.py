"""Precision over recall of every class, and the average precisions, as pictures."""

import os

import numpy as np

from rfd_tf.atomic import atomic_file
from rfd_tf.detection.results import DetectionFigures, percent

_COLUMNS = 5
_CURVE, _ENVELOPE, _MEAN = "#0072B2", "#E69F00", "#D55E00"  # told apart by colour-blind people, too


def draw_precision_recall(figures: DetectionFigures, path: str | os.PathLike, rule: str = "11_point") -> None:
    """Write a PNG with precision over recall for each class, and last the average precisions side by side.

    Args:
        figures: of C classes.
        path: of the PNG.
        rule: of the average precisions, see `metrics.RULES`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(figures.class_names) // _COLUMNS)
    bars_height = 1.0 + 0.24 * (len(figures.class_names) + 1)
    figure = Figure(figsize=(13, 2.4 * rows + bars_height), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.4 * rows, bars_height))
    values = figures.average_precisions(rule)
    _draw_curves(upper.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True), figures, values)
    _draw_bars(lower.subplots(), figures, values, rule)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)


def _draw_curves(grid, figures: DetectionFigures, values: np.ndarray) -> None:
    for axes in grid.ravel()[len(figures.class_names) :]:
        axes.set_visible(False)
    for axes, name, curve, value in zip(
        grid.ravel(), figures.class_names, figures.curves, values, strict=False
    ):
        axes.plot(curve.recall, curve.precision, color=_CURVE, linewidth=1.2, label="precision")
        axes.plot(
            curve.recall,
            curve.envelope,
            color=_ENVELOPE,
            linewidth=1.2,
            linestyle="--",
            label="highest beyond",
        )
        axes.set(xlim=(0, 1), ylim=(0, 1.03))
        found = f"{percent(value)} % of {curve.num_positives}" if curve.num_positives else "no objects"
        axes.set_title(f"{name}: {found}", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel("precision", fontsize=8)
    for column in range(min(_COLUMNS, len(figures.class_names))):
        lowest = (len(figures.class_names) - 1 - column) // _COLUMNS
        grid[lowest, column].set_xlabel("recall", fontsize=8)
        grid[lowest, column].tick_params(labelbottom=True)
    grid[0, 0].legend(fontsize=7, loc="lower left")


def _draw_bars(axes, figures: DetectionFigures, values: np.ndarray, rule: str) -> None:
    """Average precisions, the best class at the top, the mean at the bottom."""
    order = np.argsort(-np.nan_to_num(values, nan=-1), kind="stable")
    names = [*(figures.class_names[place] for place in order), "mean"]
    shown = np.append(values[order], figures.mean_average_precision(rule))
    colours = [*[_CURVE] * len(order), _MEAN]
    bars = axes.barh(np.arange(len(names)), 100 * np.nan_to_num(shown), color=colours, height=0.75)
    axes.bar_label(bars, [percent(value) for value in shown], padding=3, fontsize=8)
    axes.set_yticks(np.arange(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 105)
    axes.set_xlabel(f"average precision in %, {rule.replace('_', '-')} rule", fontsize=9)
