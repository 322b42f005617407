"""What a report says, as plain data. `collect_report` computes it, `report_page` draws it."""

import dataclasses
import datetime

import numpy as np

from rfd_tf.evaluation.results import ClassifierFigures, EvaluationResult
from rfd_tf.report.sample import Sample
from rfd_tf.rotations import NUM_ROTATIONS


@dataclasses.dataclass(frozen=True)
class Card:
    """An image as it is shown: uint8 [T, T, 3], where it is kept, and its class's name if it has one."""

    pixels: np.ndarray
    name: str
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class RotatedView:
    """An image turned `turned` times by 90 degrees, as shown to the network, and what that made of it.

    Attributes:
        card: the image, turned.
        turned: quarter turns, counter-clockwise, 0 to 3.
        probabilities: float [4], of having been turned 0 to 3 times.
    """

    card: Card
    turned: int
    probabilities: np.ndarray

    @property
    def predicted(self) -> int:
        return int(np.argmax(self.probabilities))

    @property
    def right(self) -> bool:
        return self.predicted == self.turned


@dataclasses.dataclass(frozen=True)
class RotationSection:
    """Predicted rotations of `images` images of `source`.

    Attributes:
        samples: the four views of some images, chosen at random.
        mistakes: the views that the network is surest about and wrong, at most one of an image.
        confusion: views turned `row` times that were taken for `column`, [4][4].
        images: images that were shown four times.
        source: `"training"` or `"validation"`.
    """

    samples: list[list[RotatedView]]
    mistakes: list[RotatedView]
    confusion: np.ndarray
    images: int
    source: str

    @property
    def accuracy(self) -> float:
        """Share of right views, in [0, 1]."""
        return float(np.trace(self.confusion) / (NUM_ROTATIONS * self.images))


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """An image near another: `right` tells whether it has the same class, None without labels."""

    card: Card
    similarity: float  # cosine
    right: bool | None


@dataclasses.dataclass(frozen=True)
class NeighbourRow:
    """A query with its neighbours, nearest first; `group` is the shot group of its class."""

    query: Card
    group: str | None
    neighbours: list[Neighbour]


@dataclasses.dataclass(frozen=True)
class NeighbourSection:
    """Nearest neighbours of images of `query_source` among `searched` images of `searched_source`."""

    rows: list[NeighbourRow]
    query_source: str
    searched_source: str
    searched: int


@dataclasses.dataclass(frozen=True)
class ClassifierSection:
    """The classifier whose mistakes are shown.

    Attributes:
        title: protocol and classifier.
        origin: a sentence that tells where the figures come from.
        figures: its figures.
        class_names: C names.
        class_counts: training images of each class.
        test_images: how many there were.
    """

    title: str
    origin: str
    figures: ClassifierFigures
    class_names: list[str]
    class_counts: list[int]
    test_images: int


@dataclasses.dataclass(frozen=True)
class MapSection:
    """Images in the plane.

    Attributes:
        points: float [N, 2], in [0, 1].
        labels: int64 [N], or None.
        class_names: names that the labels point to, or None.
        thumbnails: uint8 [N, T, T, 3].
        source: `"training"` or `"validation"`.
        method: how the points were found.
    """

    points: np.ndarray
    labels: np.ndarray | None
    class_names: list[str] | None
    thumbnails: np.ndarray
    source: str
    method: str


@dataclasses.dataclass(frozen=True)
class KeyFigure:
    """An accuracy in [0, 1] (None where there is none), that of the untrained control, what it means."""

    name: str
    value: float | None
    control: float | None
    meaning: str


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Images of a run: their part in it, where they are, how many (None where they cannot be opened)."""

    role: str
    location: str
    images: int | None
    classes: int | None
    skipped: int
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What was trained, on what, when.

    Attributes:
        name, workdir: of the run's folder, or of the model.
        finished: when the backbone was written; None for a model alone.
        network: the backbone's name.
        parameters: of backbone and heads.
        feature, feature_width: the feature that sections on features are about, and its length.
        data: the run's images.
        config: the whole config.
    """

    name: str
    workdir: str
    finished: datetime.datetime | None
    network: str
    parameters: int
    feature: str
    feature_width: int
    data: list[DataFacts]
    config: dict


@dataclasses.dataclass(frozen=True)
class RunReport:
    """A whole report; a part that could not be made is None, and `notes` say why.

    Attributes:
        facts: see there.
        key_figures: the headline.
        history: columns of the CSV history.
        filters: first-layer filters, float32 [kh, kw, in, out].
        rotations, neighbours, classifier, feature_map: see there.
        evaluations: every result found, by name of its folder.
        notes: section -> sentences about what is missing there.
        sample: the images that the map shows, with their features.
        machine, versions: where and by what the report was made.
    """

    facts: RunFacts
    key_figures: list[KeyFigure]
    history: dict[str, np.ndarray] | None
    filters: np.ndarray | None
    rotations: RotationSection | None
    neighbours: NeighbourSection | None
    classifier: ClassifierSection | None
    feature_map: MapSection | None
    evaluations: dict[str, EvaluationResult]
    notes: dict[str, list[str]]
    sample: Sample | None
    machine: dict[str, str]
    versions: dict[str, str]
