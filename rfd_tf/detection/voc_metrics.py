"""Detections of a data set: VOC's average precision, its result files, precision over recall drawn."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rfd_tf.data.voc import Annotation
from rfd_tf.detection.detector import Detections
from rfd_tf.files import atomic_file, write_text
from rfd_tf.metrics import PrecisionRecall, detection_precision_recall
from rfd_tf.metrics.voc_average_precision import IOU_THRESHOLD, RULES

_RESULT_LINE = re.compile(r"(\S+) (\S+) (\S+) (\S+) (\S+) (\S+)")


@dataclasses.dataclass(frozen=True)
class DetectionFigures:
    """Average precision of each class, by both rules, in [0, 1]; NaN for a class without objects.

    Attributes:
        class_names: of the C classes.
        curves: precision and recall of each.
    """

    class_names: tuple[str, ...]
    curves: tuple[PrecisionRecall, ...]

    def average_precisions(self, rule: str = "11_point") -> np.ndarray:
        """[C]."""
        return np.array([curve.average_precision(rule) for curve in self.curves])

    def mean_average_precision(self, rule: str = "11_point") -> float:
        """The mean over classes that have objects to find; NaN if none has."""
        found = self.average_precisions(rule)
        return float(found[~np.isnan(found)].mean()) if not np.isnan(found).all() else float("nan")

    def table(self) -> str:
        """Markdown: class, objects, AP by both rules in %."""
        lines = ["| class | objects | AP, 11 points | AP, area |", "|---|---:|---:|---:|"]
        columns = [self.average_precisions(rule) for rule in RULES]
        for name, curve, *values in zip(self.class_names, self.curves, *columns, strict=True):
            lines.append(f"| {name} | {curve.num_positives} | {' | '.join(map(percent, values))} |")
        means = " | ".join(percent(self.mean_average_precision(rule)) for rule in RULES)
        objects = sum(curve.num_positives for curve in self.curves)
        return "\n".join([*lines, f"| **mean** | {objects} | {means} |"])


def evaluate_detections(
    detections: Mapping[str, Detections],
    annotations: Mapping[str, Annotation],
    class_names: Sequence[str],
    iou_threshold: float = IOU_THRESHOLD,
) -> DetectionFigures:
    """VOC's figures of the detections in the images of `annotations`, both by the images' names.

    Raises:
        ValueError: unless both are of the same images.
    """
    check_same_images(detections, annotations)
    names = list(annotations)
    images = [name for name in names for _ in detections[name].scores]
    scores, labels, boxes = (
        np.concatenate([getattr(detections[name], part) for name in names] or [np.zeros(0)])
        for part in ("scores", "labels", "boxes")
    )
    curves = []
    for label in range(len(class_names)):
        own = np.flatnonzero(labels == label)
        objects, difficult = {}, {}
        for name, found in annotations.items():
            there = found.labels == label
            objects[name], difficult[name] = found.boxes[there], found.difficult[there]
        curves.append(
            detection_precision_recall(
                [images[row] for row in own], scores[own], boxes[own], objects, difficult, iou_threshold
            )
        )
    return DetectionFigures(tuple(class_names), tuple(curves))


def limit_average(detections: Mapping[str, Detections], average_of_class: int) -> dict[str, Detections]:
    """Of each class the detections that are among the likeliest `average_of_class` times N candidates.

    The candidates of all N images compete, overlapping ones included (`Detections.candidates`), so that one
    image may keep more than another. Where there are more than that, the detections kept are those with a
    score above the last of those candidates. 0 keeps all.

    Raises:
        ValueError: on a negative number, or detections without candidates.

    Reference: Girshick, "Fast R-CNN", ICCV 2015, the code's `test_net`.
    """
    if average_of_class < 0:
        raise ValueError(
            f"`average_of_class` must not be negative. Received: average_of_class={average_of_class}"
        )
    if not average_of_class or not detections:
        return dict(detections)
    if any(found.candidates is None for found in detections.values()):
        raise ValueError("`average_of_class` needs the candidates of each class: set `most_of_class`")
    candidates = np.concatenate([found.candidates for found in detections.values()], axis=1)
    limit = average_of_class * len(detections)
    if candidates.shape[1] <= limit:
        return dict(detections)
    floors = -np.partition(-candidates, limit - 1, axis=1)[:, limit - 1]
    return {name: chosen(found, found.scores > floors[found.labels]) for name, found in detections.items()}


def chosen(found: Detections, rows) -> Detections:
    """The detections in an image that `rows` selects, a mask or a slice."""
    return Detections(found.boxes[rows], found.scores[rows], found.labels[rows])


def rounded(found: Detections) -> Detections:
    """Scores with three decimals and corners with one, as in the result files of Fast R-CNN's code."""
    scores = np.round(found.scores.astype("float64"), 3).astype("float32")
    return Detections(np.round(found.boxes.astype("float64"), 1).astype("float32"), scores, found.labels)


def check_same_images(detections: Mapping[str, Detections], annotations: Mapping[str, Annotation]) -> None:
    """Raises ValueError if an image is in one of them only."""
    if detections.keys() != annotations.keys():
        odd = min(detections.keys() ^ annotations.keys())
        raise ValueError(f"Detections and annotations must be of the same images; {odd} is in one only")


def write_voc_results(
    folder: str | os.PathLike,
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
    split: str,
    few_decimals: bool = False,
) -> list[Path]:
    """Write `comp4_det_SPLIT_CLASS.txt` for each class, as the devkit's evaluation reads them.

    A line is `image score x1 y1 x2 y2`, with pixels counted from 1 and enough digits to read the same
    float32 numbers again; with `few_decimals` three of a score and one of a corner, as `rounded` leaves them.
    """
    forms = (".3f", ".1f") if few_decimals else (".9g", ".9g")
    paths = []
    for label, class_name in enumerate(class_names):
        lines = []
        for name, found in detections.items():
            for row in np.flatnonzero(found.labels == label):
                corners = found.boxes[row].astype("float64") + 1
                numbers = [f"{found.scores[row]:{forms[0]}}", *(f"{corner:{forms[1]}}" for corner in corners)]
                lines.append(" ".join([name, *numbers]))
        path = Path(folder, f"comp4_det_{split}_{class_name}.txt")
        write_text(path, "".join(f"{line}\n" for line in lines))
        paths.append(path)
    return paths


def read_voc_results(
    folder: str | os.PathLike, names: Sequence[str], class_names: Sequence[str], split: str
) -> dict[str, Detections]:
    """What `write_voc_results` or the devkit's tools wrote, of the images `names`, by falling score.

    Raises:
        FileNotFoundError: if the file of a class is missing.
        ValueError: on a line of another form or of another image, naming file and line.
    """
    rows: dict[str, list] = {name: [] for name in names}
    for label, class_name in enumerate(class_names):
        path = Path(folder, f"comp4_det_{split}_{class_name}.txt")
        if not path.is_file():
            raise FileNotFoundError(f"No results at {path}")
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            name, *values = _result(line, f"{path}, line {number}")
            if name not in rows:
                raise ValueError(f"{path}, line {number}: there is no image {name!r}")
            rows[name].append((*values, label))
    return {name: _by_score(found) for name, found in rows.items()}


def _result(line: str, place: str) -> tuple:
    match = _RESULT_LINE.fullmatch(line.strip())
    try:
        name, *numbers = match.groups() if match else ()
        values = [float(number) for number in numbers]
    except ValueError:
        raise ValueError(f"{place} must be `image score x1 y1 x2 y2`. Received: {line[:80]!r}") from None
    if not (np.abs(values) < np.finfo("float32").max).all():
        raise ValueError(f"{place} has a number that is not finite: {line[:80]!r}")
    return (name, *values)


def _by_score(rows: list[tuple]) -> Detections:
    values = np.array(rows, "float64").reshape(-1, 6)
    values = values[np.argsort(-values[:, 0], kind="stable")]
    boxes = (values[:, 1:5] - 1).astype("float32")
    return Detections(boxes, values[:, 0].astype("float32"), values[:, 5].astype("int64"))


def percent(value: float) -> str:
    """A share with one decimal; a dash for NaN."""
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


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
