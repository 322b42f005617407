"""Figures of an evaluation: computed, kept as JSON, and shown as tables."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rfd_tf.files import fits, parse_json, write_text
from rfd_tf.imbalance import shot_groups
from rfd_tf.metrics.voc_average_precision import RULES, image_precision_recall

RESULT_FILE = "evaluation.json"
EVALUATIONS_FOLDER = "evaluations"  # of a run's folder: one folder per evaluation
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ClassifierFigures:
    """How well one classifier does on the test images; accuracies in [0, 1].

    Attributes:
        top1: share of images whose class comes first.
        top5: share whose class is among the first five; None for classifiers that give no scores, and where
            there are no more than five classes.
        balanced_accuracy: mean of the accuracies of the classes that have test images.
        per_class: accuracy of each class; None for a class without test images.
        shot_groups: mean accuracy of the classes with many (> 100), medium (20 to 100) and few (< 20)
            training images; None for a group without classes.
        confusion: images of class `row` that were taken for class `column`, [C][C].
        extra: further figures by name, such as `best_epoch`.
    """

    top1: float
    top5: float | None
    balanced_accuracy: float
    per_class: list[float | None]
    shot_groups: dict[str, float | None]
    confusion: list[list[int]]
    extra: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class MultiLabelFigures:
    """How well one classifier finds classes of which an image may show several; precisions in [0, 1].

    Attributes:
        mean_average_precision: by rule (`metrics.voc_average_precision.RULES`), the mean over the classes
            that test images show.
        average_precision: by rule, of each class; None for a class that no test image shows.
        extra: further figures by name, such as the spread over several samples.
    """

    mean_average_precision: dict[str, float]
    average_precision: dict[str, list[float | None]]
    extra: dict[str, float] = dataclasses.field(default_factory=dict)


Figures = ClassifierFigures | MultiLabelFigures


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """One protocol on one model.

    Attributes:
        protocol: its name.
        model: the model's location as given.
        command: the command line that made this.
        figures: classifier (a feature map, a loss, ...) -> its figures.
        class_names: C names.
        class_counts: training images of each class that were used; an image may count for several.
        test_images: number of test images.
        settings: the whole config.
        seconds: wall-clock time, of all the runs that it took.
        machine: processor, cores, memory, accelerators.
        versions: package -> version.
        date: ISO 8601, UTC.
        notes: what else a reader must know, such as how many boxes were clipped.
    """

    protocol: str
    model: str
    command: str
    figures: dict[str, Figures]
    class_names: list[str]
    class_counts: list[int]
    test_images: int
    settings: dict
    seconds: float
    machine: dict[str, str]
    versions: dict[str, str]
    date: str
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        """The figures as a table for a terminal."""
        return text_table(self)

    @property
    def is_multi_label(self) -> bool:
        """Whether the figures are `MultiLabelFigures`."""
        return any(isinstance(figures, MultiLabelFigures) for figures in self.figures.values())


def save_result(result: EvaluationResult, folder: Path) -> Path:
    """Write `folder/evaluation.json`; its path."""
    path = folder / RESULT_FILE
    fields = {"format": FORMAT, **dataclasses.asdict(result)}
    write_text(path, json.dumps(fields, indent=1, allow_nan=False) + "\n")
    return path


def load_result(path: Path) -> EvaluationResult:
    """Read what `save_result` wrote; anything else raises ValueError that names the file."""
    try:
        fields = parse_json(path.read_text(encoding="utf-8"))
        if fields.pop("format") > FORMAT:
            raise ValueError("it was written by a newer version")
        figures = {name: _figures(values) for name, values in fields.pop("figures").items()}
        result = EvaluationResult(figures=figures, **fields)
        _check(result)
        return result
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: no result of an evaluation ({error})") from error


def _figures(values: dict) -> Figures:
    kind = MultiLabelFigures if "average_precision" in values else ClassifierFigures
    return kind(**values)


def _check(result: EvaluationResult) -> None:
    """Raise ValueError where a field is not of its type, or figures are not of the classes that there are."""
    classes = len(result.class_names)
    for part in (result, *result.figures.values()):
        for field in dataclasses.fields(part):
            if field.name != "figures" and not fits(value := getattr(part, field.name), field.type):
                raise ValueError(f"its field {field.name} is {value!r:.80}")
    for name, figures in result.figures.items():
        rows = [value for value in dataclasses.astuple(figures) if isinstance(value, list)]
        rows += [row for value in rows for row in value if isinstance(row, list)]
        if any(len(row) != classes for row in rows):
            raise ValueError(f"the figures of {name!r} are not of its {classes} classes")


def load_results(workdir: Path) -> list[EvaluationResult]:
    """The results of all evaluations below a run's folder, by name of their folders."""
    return [load_result(path) for path in sorted(workdir.glob(f"{EVALUATIONS_FOLDER}/*/{RESULT_FILE}"))]


_TOP = 5


def classification_figures(
    labels: np.ndarray,
    answers: np.ndarray,
    class_counts: npt.ArrayLike,
    extra: Mapping[str, float] | None = None,
) -> ClassifierFigures:
    """Accuracies and confusion of one classifier.

    Of classes with equal scores the one with the smaller number comes first, for the prediction and for the
    first five alike.

    Args:
        labels: [M] true classes, integers in [0, C).
        answers: [M, C] scores, higher for likelier classes, of any scale, -inf allowed; or [M] predicted
            classes.
        class_counts: [C] training images of each class, zero allowed.
        extra: further figures to keep.

    Raises:
        ValueError: on no test images, mismatched shapes, labels or predictions outside [0, C), or NaN scores.
    """
    from sklearn.metrics import confusion_matrix

    labels, answers = np.asarray(labels), np.asarray(answers)
    class_counts = np.asarray(class_counts)
    num_classes = len(class_counts)
    _check_classes("labels", labels, num_classes)
    has_scores = answers.ndim == 2
    if has_scores:
        _check_scores(answers, len(labels), num_classes)
    predicted = answers.argmax(axis=1) if has_scores else answers
    _check_classes("predictions", predicted, num_classes)
    if len(predicted) != len(labels):
        raise ValueError(f"There are {len(labels)} labels and {len(predicted)} predictions")

    confusion = confusion_matrix(labels, predicted, labels=np.arange(num_classes))
    images = confusion.sum(axis=1)
    per_class = np.divide(
        np.diag(confusion), images, out=np.full(num_classes, np.nan), where=images > 0, dtype="float64"
    )
    return ClassifierFigures(
        top1=float(np.mean(predicted == labels)),
        top5=_top_accuracy(labels, answers, _TOP) if has_scores and num_classes > _TOP else None,
        balanced_accuracy=float(np.nanmean(per_class)),
        per_class=[None if np.isnan(value) else float(value) for value in per_class],
        shot_groups={name: _mean(per_class[ids]) for name, ids in shot_groups(class_counts).items()},
        confusion=confusion.tolist(),
        extra=dict(extra or {}),
    )


def _top_accuracy(labels: np.ndarray, scores: np.ndarray, top: int) -> float:
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    classes = np.arange(scores.shape[1])
    ahead = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    return float(np.mean(ahead.sum(axis=1) < top))


def _mean(values: np.ndarray) -> float | None:
    """Mean of those that are numbers; None where there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def _check_classes(what: str, classes: np.ndarray, num_classes: int) -> None:
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"The {what} must be a vector of integers. Received: {classes.dtype} {classes.shape}"
        )
    if not len(classes):
        raise ValueError(f"There are no {what}: the test set is empty")
    outside = classes[(classes < 0) | (classes >= num_classes)]
    if outside.size:
        raise ValueError(f"The {what} must be in [0, {num_classes}). Received: {outside[0]}")


def _check_scores(scores: np.ndarray, images: int, num_classes: int) -> None:
    if scores.shape != (images, num_classes):
        raise ValueError(f"The scores must have shape {(images, num_classes)}. Received: {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"The scores of test image {np.isnan(scores).any(axis=1).argmax()} are not numbers")


def multi_label_figures(
    targets: np.ndarray, scores: np.ndarray, extra: Mapping[str, float] | None = None
) -> MultiLabelFigures:
    """Average precisions by either rule.

    Args:
        targets: [M, C], 1 where a class is in an image, -1 where not, 0 where that does not count.
        scores: [M, C], higher where a class is likelier; of any scale, compared within a class only.
        extra: further figures to keep.

    Raises:
        ValueError: on shapes that differ, scores that are not finite, or targets that show no class at all.
    """
    return figures_of(average_precisions(targets, scores), extra)


def average_precisions(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[rules, C] in the order of `RULES`; NaN for a class that no image shows. The rest as above."""
    targets, scores = np.asarray(targets), np.asarray(scores)
    if targets.ndim != 2 or targets.shape != scores.shape:
        raise ValueError(f"`targets` and `scores` must be [M, C] both: {targets.shape}, {scores.shape}")
    found = [image_precision_recall(*columns) for columns in zip(scores.T, targets.T, strict=True)]
    if all(curve.num_positives == 0 for curve in found):
        raise ValueError("No test image shows any of the classes")
    return np.array([[curve.average_precision(rule) for curve in found] for rule in RULES])


def figures_of(precisions: np.ndarray, extra: Mapping[str, float] | None = None) -> MultiLabelFigures:
    """Figures of average precisions [rules, C]."""
    by_rule = dict(zip(RULES, precisions, strict=True))
    return MultiLabelFigures(
        mean_average_precision={rule: float(np.nanmean(values)) for rule, values in by_rule.items()},
        average_precision={rule: _or_none(values) for rule, values in by_rule.items()},
        extra=dict(extra or {}),
    )


def _or_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


PERCENT = ("top1", "map", "map_std")  # ends of names of further figures that are shares


def evaluation_folder(run: Path, protocol: str, control: bool = False) -> Path:
    """Where the evaluation of a run, or of its untrained control, is kept by default."""
    return run / EVALUATIONS_FOLDER / (f"{protocol}-control" if control else protocol)


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
        [label, *(_percent(values[row]) for values in found.values())]
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
    cells = {name: _percent(value) for name, value in headline(figures).items()}
    for name, value in figures.extra.items():
        title = name.replace("_", " ").replace("top1", "top-1")
        cells[title] = _percent(value) if name.endswith(PERCENT) else f"{value:g}"
    return cells


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
