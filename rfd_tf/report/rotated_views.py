"""What the rotation head says of pictures turned four ways."""

import keras
import numpy as np

from rfd_tf.features import FeatureExtractor
from rfd_tf.models.feature_model import ROTATION_PROBABILITIES
from rfd_tf.report.contents import Card, RotatedView, RotationSection
from rfd_tf.report.sample import SEED, Sample, batches
from rfd_tf.rotations import NUM_ROTATIONS, four_views
from rfd_tf.runs.images import Pictures

SHOWN, MISTAKES = 12, 24


def rotation_section(
    extractor: FeatureExtractor, pictures: Pictures, sample: Sample, max_images: int
) -> RotationSection:
    """Shows up to `max_images` pictures of the sample to the network four times each.

    The extractor must have the output `rotation_probabilities`.
    """
    rng = np.random.default_rng(SEED)
    rows = np.sort(rng.permutation(len(sample))[:max_images])
    probabilities = _probabilities(extractor, pictures, sample.indices[rows])
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


def _probabilities(extractor: FeatureExtractor, pictures: Pictures, indices: np.ndarray) -> np.ndarray:
    """float32 [N, 4, 4]: of picture, view, rotation."""
    found = []
    for images in batches(pictures, indices, "four views"):
        views = keras.ops.convert_to_numpy(four_views(keras.ops.convert_to_tensor(images)))
        found.append(extractor(views, [ROTATION_PROBABILITIES])[ROTATION_PROBABILITIES])
    return np.concatenate(found).reshape(-1, NUM_ROTATIONS, NUM_ROTATIONS)


def _surest_mistakes(sample: Sample, rows, probabilities, predicted) -> list[RotatedView]:
    """One view of a picture at most, the surest first."""
    wrong = predicted != np.arange(NUM_ROTATIONS)
    sureness = np.where(wrong, probabilities.max(axis=2), 0)
    order = np.argsort(-sureness.max(axis=1), kind="stable")
    worst = [i for i in order[:MISTAKES] if wrong[i].any()]
    return [_view(sample, rows[i], int(sureness[i].argmax()), probabilities[i]) for i in worst]


def _view(sample: Sample, row: int, turned: int, probabilities: np.ndarray) -> RotatedView:
    turned_picture = np.rot90(sample.thumbnails[row], turned)
    card = Card(turned_picture, sample.names[row], sample.label_name(row))
    return RotatedView(card, turned, probabilities[turned])
