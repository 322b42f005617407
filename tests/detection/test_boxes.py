import numpy as np
from keras.utils import bounding_boxes

from rfd_tf.detection import boxes
from rfd_tf.metrics import inclusive_iou
from tests.contract import to_numpy


def random_boxes(rng, count, side=500):
    corners = rng.uniform(0, side, (count, 2, 2))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype("float32")


def test_iou_is_that_of_inclusive_pixels():
    """As Keras's, for which boxes end beyond their last pixel."""
    rng = np.random.default_rng(0)
    ours, others = random_boxes(rng, 40), random_boxes(rng, 30)
    ends = (found + np.float32([0, 0, 1, 1]) for found in (ours, others))
    expected = to_numpy(bounding_boxes.compute_iou(*ends, bounding_box_format="xyxy"))
    np.testing.assert_allclose(inclusive_iou(ours, others), expected, atol=1e-5)
    assert inclusive_iou(ours, others[:0]).shape == (40, 0)
    assert inclusive_iou([[0, 0, 9, 9]], [[0, 0, 9, 4]]).item() == 0.5


def test_encoding_equals_the_formula():
    rng = np.random.default_rng(1)
    proposals, targets = (random_boxes(rng, 200).astype("float64") for _ in range(2))
    sizes, centres = zip(
        *((b[:, 2:] - b[:, :2] + 1, (b[:, :2] + b[:, 2:] + 1) / 2) for b in (proposals, targets)), strict=True
    )
    expected = np.concatenate([(centres[1] - centres[0]) / sizes[0], np.log(sizes[1] / sizes[0])], axis=1)
    np.testing.assert_allclose(to_numpy(boxes.encode(proposals, targets)), expected, rtol=1e-4, atol=1e-4)


def test_exclusive_encoding_is_that_of_fast_rcnns_code():
    """There a width is x2 - x1 (plus 1e-14), and the centre half of it beyond x1."""
    rng = np.random.default_rng(4)
    proposals, targets = (np.round(random_boxes(rng, 300)) + [0, 0, 1, 1] for _ in range(2))
    sizes = [b[:, 2:] - b[:, :2] + 1e-14 for b in (proposals, targets)]
    centres = [b[:, :2] + 0.5 * size for b, size in zip((proposals, targets), sizes, strict=True)]
    expected = np.concatenate([(centres[1] - centres[0]) / sizes[0], np.log(sizes[1] / sizes[0])], axis=1)
    found = to_numpy(boxes.encode(proposals, targets, exclusive=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found - to_numpy(boxes.encode(proposals, targets))).max() > 0.01
    moved = centres[0] + expected[:, :2] * sizes[0]
    half = 0.5 * np.exp(expected[:, 2:]) * sizes[0]
    decoded = to_numpy(boxes.decode(proposals, expected, exclusive=True))
    np.testing.assert_allclose(decoded, np.concatenate([moved - half, moved + half], axis=1), atol=1e-2)
    np.testing.assert_allclose(decoded, targets, atol=1e-2)


def test_encoding_and_decoding_returns_the_box():
    rng = np.random.default_rng(2)
    proposals, targets = random_boxes(rng, 500), random_boxes(rng, 500)
    # As large as VOC's images. A delta is a share of the proposal's size, so tiny proposals round more.
    large = (proposals[:, 2:] - proposals[:, :2]).min(axis=1) > 16
    decoded = to_numpy(boxes.decode(proposals[large], boxes.encode(proposals[large], targets[large])))
    np.testing.assert_allclose(decoded, targets[large], rtol=1e-6, atol=1e-4)
    assert large.sum() > 300


def test_clip_and_mirror():
    np.testing.assert_array_equal(boxes.clip([[-3, 5, 60, 31]], height=30, width=40), [[0, 5, 39, 29]])
    mirrored = boxes.mirror([[0, 2, 9, 4]], 40)
    np.testing.assert_array_equal(mirrored, [[30, 2, 39, 4]])
    image = np.zeros((30, 40))
    image[2:5, 0:10] = 1
    x1, y1, x2, y2 = mirrored[0].astype(int)
    assert image[:, ::-1][y1 : y2 + 1, x1 : x2 + 1].sum() == image.sum()


def test_no_boxes():
    nothing = np.zeros((0, 4), "float32")
    assert boxes.mirror(nothing, 10).shape == (0, 4)
    assert to_numpy(boxes.decode(nothing, boxes.encode(nothing, nothing))).shape == (0, 4)
