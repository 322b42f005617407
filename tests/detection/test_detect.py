import keras
import numpy as np
import pytest

from rfd_tf.data import Preprocessing
from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection.detect import DetectionOptions, detect, distinct_regions, select
from rfd_tf.metrics import inclusive_iou
from rfd_tf.models import FastRCNN
from tests.contract import to_numpy
from tests.detection.test_boxes import random_boxes

PLAIN = Preprocessing(32, train="resize", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def suppressed(boxes, scores, iou):
    """Greedy, from the definition."""
    kept = []
    for row in np.argsort(-scores, kind="stable"):
        if all(inclusive_iou(boxes[row : row + 1], boxes[other : other + 1])[0, 0] <= iou for other in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize("seed", range(4))
def test_selection_equals_a_loop(seed):
    rng = np.random.default_rng(seed)
    proposals = np.repeat(random_boxes(rng, 12, side=90), 5, axis=0) + rng.uniform(0, 8, (60, 4)).astype(
        "float32"
    )
    proposals[:, 2:] = np.maximum(proposals[:, 2:], proposals[:, :2] + 1)
    probabilities = rng.dirichlet(np.full(4, 0.5), 60).astype("float32")
    deltas = rng.normal(0, 0.1, (60, 4, 4)).astype("float32")
    options = DetectionOptions(score=0.1, nms_iou=0.4, most=25)
    found = select(proposals, probabilities, deltas, 80, 100, options)
    expected = []
    for label in range(1, 4):
        moved = np.array(box_functions.decode(proposals, deltas[:, label]))
        moved = np.clip(moved, 0, [99, 79, 99, 79])
        likely = np.flatnonzero(probabilities[:, label] >= 0.1)
        for row in suppressed(moved[likely], probabilities[likely, label], 0.4):
            expected.append((probabilities[likely[row], label], label - 1, moved[likely[row]]))
    expected = sorted(expected, key=lambda found: -found[0])[:25]
    assert len(expected) == 25
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected])
    assert found.labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found.boxes, [box for _, _, box in expected], atol=1e-4)


def test_nothing_likely_nothing_found():
    probabilities = np.tile(np.float32([0.99, 0.01]), (3, 1))
    found = select(
        random_boxes(np.random.default_rng(0), 3),
        probabilities,
        np.zeros((3, 2, 4)),
        500,
        500,
        DetectionOptions(),
    )
    assert found.boxes.shape == (0, 4)
    assert len(found.scores) == len(found.labels) == 0


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    images = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(4, 3, 8, padding="same", activation="relu")(images)
    detector = FastRCNN(keras.Model(images, maps), 3, stride=8, pool_size=2, dense_width=8)
    for layer in detector.head.layers:  # the published deviations leave nothing of so few inputs
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(keras.initializers.GlorotUniform(seed=1)(layer.kernel.shape) * 2)
    detector.set_delta_statistics(np.full((4, 4), 0.01), np.full((4, 4), 0.1))
    return detector


def test_shared_cells_are_computed_once_and_change_nothing(model):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (60, 90, 3), dtype="uint8")
    proposals = random_boxes(rng, 40, side=59)
    proposals = np.concatenate([proposals, proposals + 0.2])
    options = DetectionOptions(short_side=120, longest=150, score=0.2, nms_iou=0.99, most=1000)
    found = detect(model, image, proposals, PLAIN, options)
    factor = 150 / 90
    rows, inverse = distinct_regions(proposals * np.float32(factor), 8)
    assert len(rows) < 60
    np.testing.assert_array_equal(np.sort(rows), np.unique(rows))
    assert len(inverse) == 80
    from rfd_tf.detection.scaling import scaled_picture

    picture = np.array(scaled_picture(image, factor, PLAIN))
    assert picture.shape == (100, 150, 3)
    outputs = model({"image": picture[None], "regions": (proposals * np.float32(factor))[None]})
    logits = to_numpy(outputs["class_logits"])[0].astype("float64")
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    deltas = to_numpy(outputs["deltas"])[0] * 0.1 + 0.01
    expected = select(proposals, probabilities.astype("float32"), deltas, 60, 90, options)
    assert len(expected.scores) > 20
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [89, 59, 89, 59]).all()


def test_no_proposals(model):
    found = detect(model, np.zeros((40, 40, 3), "uint8"), np.zeros((0, 4)), PLAIN)
    assert found.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "options", [{"short_side": 0}, {"longest": 0}, {"most": 0}, {"score": 1.0}, {"nms_iou": -0.1}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DetectionOptions(**options)
