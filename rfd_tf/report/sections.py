"""What a report shows of images: neighbours, rotated views, and a map of the features."""

import dataclasses

import keras
import numpy as np

from rfd_tf.features import FeatureModel
from rfd_tf.imbalance import shot_groups
from rfd_tf.metrics import nearest_neighbours
from rfd_tf.models.inference import ROTATION_PROBABILITIES
from rfd_tf.report.sample import SEED, Sample, batches
from rfd_tf.rotations import NUM_ROTATIONS, four_views
from rfd_tf.runs.images import ImageSet


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


NEIGHBOURS = 8
PER_GROUP, WITHOUT_GROUPS = 4, 8


def neighbour_section(
    queries: Sample, searched: Sample, class_counts: np.ndarray | None = None
) -> NeighbourSection:
    """Neighbours by cosine similarity of some queries.

    Args:
        queries: where queries are taken from, at random: of each shot group some of different classes, or
            some of all without labels.
        searched: where neighbours are looked for; may be `queries`, whose own image is then left out.
        class_counts: training images of each class, for the shot groups; None without labels.

    Raises:
        ValueError: where there is nothing to be found.
    """
    chosen = _chosen_queries(queries, class_counts)
    rows = [row for row, _ in chosen]
    alone = queries is searched
    wanted = queries.features[rows]
    # An image's nearest neighbour among its own sample is itself, or another that is equal to it.
    cosines, found = nearest_neighbours(searched.features, wanted, NEIGHBOURS + alone)
    result = []
    for (row, group), near, similar in zip(chosen, found, cosines, strict=True):
        others = [(int(n), float(c)) for n, c in zip(near, similar, strict=True) if not (alone and n == row)]
        query = _card(queries, row)
        neighbours = [_neighbour(searched, query, n, c) for n, c in others[:NEIGHBOURS]]
        result.append(NeighbourRow(query, group, neighbours))
    if not any(row.neighbours for row in result):
        raise ValueError("there is one image only, and it has no neighbour")
    return NeighbourSection(result, queries.source, searched.source, len(searched))


def _chosen_queries(queries: Sample, class_counts: np.ndarray | None) -> list[tuple[int, str | None]]:
    """(row, shot group) of each query."""
    order = np.random.default_rng(SEED).permutation(len(queries))
    if queries.labels is None or class_counts is None:
        return [(int(row), None) for row in order[:WITHOUT_GROUPS]]
    groups = {name: classes for name, classes in shot_groups(class_counts).items() if len(classes)}
    each = PER_GROUP if len(groups) > 1 else WITHOUT_GROUPS
    chosen: list[tuple[int, str | None]] = []
    for name, classes in groups.items():
        of_group = order[np.isin(queries.labels[order], classes)]
        # Images of classes that have not had their turn come first.
        _, firsts = np.unique(queries.labels[of_group], return_index=True)
        turns = [*np.sort(firsts).tolist(), *np.setdiff1d(np.arange(len(of_group)), firsts).tolist()]
        chosen += [(int(of_group[turn]), name) for turn in turns[:each]]
    return chosen


def _card(sample: Sample, row: int) -> Card:
    return Card(sample.thumbnails[row], sample.names[row], sample.label_name(row))


def _neighbour(searched: Sample, query: Card, row: int, similarity: float) -> Neighbour:
    card = _card(searched, row)
    labelled = query.label is not None and card.label is not None
    return Neighbour(card, similarity, query.label == card.label if labelled else None)


SHOWN, MISTAKES = 12, 24


def rotation_section(
    feature_model: FeatureModel, image_set: ImageSet, sample: Sample, max_images: int
) -> RotationSection:
    """Shows up to `max_images` images of the sample to the network four times each.

    The feature model must have the output `rotation_probabilities`.
    """
    rng = np.random.default_rng(SEED)
    rows = np.sort(rng.permutation(len(sample))[:max_images])
    probabilities = _probabilities(feature_model, image_set, sample.indices[rows])
    predicted = probabilities.argmax(axis=2)
    confusion = np.zeros((NUM_ROTATIONS, NUM_ROTATIONS), dtype="int64")
    np.add.at(confusion, (np.arange(NUM_ROTATIONS)[None], predicted), 1)
    shown = np.sort(rng.permutation(len(rows))[:SHOWN])
    return RotationSection(
        samples=[
            [_view(sample, rows[i], turned, probabilities[i]) for turned in range(NUM_ROTATIONS)]
            for i in shown
        ],
        mistakes=_surest_mistakes(sample, rows, probabilities, predicted),
        confusion=confusion,
        images=len(rows),
        source=sample.source,
    )


def _probabilities(feature_model: FeatureModel, image_set: ImageSet, indices: np.ndarray) -> np.ndarray:
    """float32 [N, 4, 4]: of image, view, rotation."""
    found = []
    for images in batches(image_set, indices, "four views"):
        views = keras.ops.convert_to_numpy(four_views(keras.ops.convert_to_tensor(images)))
        found.append(feature_model(views, [ROTATION_PROBABILITIES])[ROTATION_PROBABILITIES])
    return np.concatenate(found).reshape(-1, NUM_ROTATIONS, NUM_ROTATIONS)


def _surest_mistakes(sample: Sample, rows, probabilities, predicted) -> list[RotatedView]:
    """One view of an image at most, the surest first."""
    wrong = predicted != np.arange(NUM_ROTATIONS)
    sureness = np.where(wrong, probabilities.max(axis=2), 0)
    order = np.argsort(-sureness.max(axis=1), kind="stable")
    worst = [i for i in order[:MISTAKES] if wrong[i].any()]
    return [_view(sample, rows[i], int(sureness[i].argmax()), probabilities[i]) for i in worst]


def _view(sample: Sample, row: int, turned: int, probabilities: np.ndarray) -> RotatedView:
    turned_image = np.rot90(sample.thumbnails[row], turned)
    card = Card(turned_image, sample.names[row], sample.label_name(row))
    return RotatedView(card, turned, probabilities[turned])


MAX_POINTS = 1500
_DIMENSIONS = 50
_PERPLEXITY = 30.0
_FEWEST = 5


def feature_map(sample: Sample) -> MapSection:
    """A t-SNE map of up to 1,500 images of a sample.

    Features are scaled to unit length, so that distances order images as cosines do, and reduced to 50
    dimensions by PCA before.

    Raises:
        ValueError: if the images are too few, or their features all alike.

    Reference: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; the PCA start: Kobak and
        Berens, "The art of using t-SNE for single-cell transcriptomics", Nature Communications 2019.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = np.sort(np.random.default_rng(SEED).permutation(len(sample))[:MAX_POINTS])
    if len(rows) < _FEWEST:
        raise ValueError(f"a map needs at least {_FEWEST} images; there are {len(rows)}")
    features = sample.features[rows].astype("float64")
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if features.std(axis=0).max() < 1e-6:
        raise ValueError("the features of all images are alike: the training collapsed")
    reduced = min(_DIMENSIONS, *features.shape)
    features = PCA(reduced, svd_solver="full", random_state=SEED).fit_transform(features)
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    # Its threads wait busily for each other: several take many times as long where cores are shared.
    with threadpool_limits(1):
        points = TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(features)
    method = (
        f"scikit-learn's t-SNE (perplexity {perplexity:g}, PCA start, seed {SEED}) of features of unit "
        f"length, reduced to {reduced} dimensions by PCA"
    )
    low, high = points.min(axis=0), points.max(axis=0)
    return MapSection(
        points=(points - low) / np.maximum(high - low, 1e-12),
        labels=None if sample.labels is None else sample.labels[rows],
        class_names=sample.class_names,
        thumbnails=sample.thumbnails[rows],
        source=sample.source,
        method=method,
    )
