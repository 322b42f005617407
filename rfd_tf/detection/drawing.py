"""Drawings of detections and of precision over recall."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rfd_tf.data.voc import Annotation
from rfd_tf.detection.detector import Detections
from rfd_tf.detection.results import DetectionFigures, percent
from rfd_tf.files import atomic_file

# Okabe and Ito's colours that stand out from photographs; colour-blind people can tell them apart, too.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_TRUE, _EDGE = (255, 255, 255), (0, 0, 0)
_DASH = 6  # pixels
DRAWN_SCORE = 0.3  # of drawn detections; average precision counts them all


def drawn_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    annotation: Annotation | None = None,
    score: float = 0.0,
) -> np.ndarray:
    """The image with a box, the class and the score in % for each detection, the likeliest on top.

    Args:
        image: uint8 [H, W, 3].
        detections: in it.
        class_names: of the data.
        annotation: its objects are drawn as well, dashed and white, with a `?` if they are difficult.
        score: detections of lower probability are not drawn.

    Returns:
        uint8 [H, W, 3].
    """
    drawing = Image.fromarray(image)
    pen = ImageDraw.Draw(drawing)
    font = ImageFont.load_default(max(12, min(drawing.size) // 26))
    tags = []  # drawn last, so that no box crosses them
    if annotation is not None:
        for box, label, difficult in zip(
            annotation.boxes, annotation.labels, annotation.difficult, strict=True
        ):
            _dashed(pen, box)
            tags.append((_corner(box, below=True), class_names[label] + "?" * bool(difficult), _TRUE))
    for row in np.flatnonzero(detections.scores >= score)[::-1]:
        box, label = detections.boxes[row], detections.labels[row]
        colour = _COLOURS[label % len(_COLOURS)]
        _framed(pen, box, colour)
        tags.append((_corner(box), f"{class_names[label]} {100 * detections.scores[row]:.0f}", colour))
    for corner, text, colour in tags:
        _tag(pen, font, corner, text, colour, drawing.size)
    return np.asarray(drawing)


def draw_detections(path: str | os.PathLike, image: np.ndarray, *arguments, **options) -> None:
    """Write the PNG of `drawn_detections(image, ...)`."""
    with atomic_file(path) as file:
        Image.fromarray(drawn_detections(image, *arguments, **options)).save(file, "PNG")


def _framed(pen, box, colour) -> None:
    """Two pixels of colour between dark edges: seen on any ground."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    for inset, width, ink in ((-1, 4, _EDGE), (0, 2, colour)):
        corners = (x1 + inset, y1 + inset, max(x2 - inset, x1 + inset), max(y2 - inset, y1 + inset))
        pen.rectangle(corners, outline=ink, width=width)


def _dashed(pen, box) -> None:
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    for start, end, fixed, across in (
        (x1, x2, y1, True),
        (x1, x2, y2, True),
        (y1, y2, x1, False),
        (y1, y2, x2, False),
    ):
        for number, at in enumerate(range(start, end + 1, _DASH)):
            until = min(at + _DASH - 1, end)
            line = ((at, fixed), (until, fixed)) if across else ((fixed, at), (fixed, until))
            pen.line(line, fill=_EDGE if number % 2 else _TRUE, width=2)


def _corner(box, below: bool = False) -> tuple[int, int]:
    """Where a box's tag begins: at its upper left corner, or, inside, at its lower left one."""
    return round(float(box[0])), round(float(box[3 if below else 1]))


def _tag(pen, font, corner, text: str, colour, size) -> None:
    """Dark text on a plate that ends above `corner`, x and y, but lies within the image."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 5
    x = max(0, min(corner[0], size[0] - width))
    y = max(0, min(corner[1] - height, size[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour, outline=_EDGE)
    pen.text((x + 3 - left, y + 2 - top), text, font=font, fill=_EDGE)


_COLUMNS = 5
_CURVE, _ENVELOPE, _MEAN = "#0072B2", "#E69F00", "#D55E00"  # of Okabe and Ito, too


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
    upper, lower = figure.subfigures(
        2,
        1,  # type: ignore[misc]
        height_ratios=(2.4 * rows, bars_height),
    )
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
