"""What an evaluation found, as a file that reports and tables are made of."""

import dataclasses
import json
from pathlib import Path

from rfd_tf.atomic import write_text
from rfd_tf.json_text import fits, parse_json

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
