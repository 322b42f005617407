import numpy as np
import pytest
from PIL import Image

from rfd_tf.data.voc import Annotation
from rfd_tf.detection.detector import Detections
from rfd_tf.detection.find_objects import draw_detections, drawn_detections
from rfd_tf.detection.voc_metrics import DetectionFigures, draw_precision_recall
from rfd_tf.metrics import PrecisionRecall

GREY = np.full((200, 300, 3), 128, "uint8")
ORANGE, BLUE = (230, 159, 0), (86, 180, 233)
FOUND = Detections(
    np.float32([[40, 50, 139, 119], [180, 60, 259, 149], [20, 150, 60, 190]]),
    np.float32([0.9, 0.6, 0.1]),
    np.array([0, 1, 0]),
)
TRUTH = Annotation(300, 200, np.float32([[40, 40, 139, 180]]), np.array([1]), np.array([True]))


def share(pixels, colour):
    return float((pixels.reshape(-1, 3) == colour).all(axis=1).mean())


def test_boxes_lie_where_they_were_found():
    drawn = drawn_detections(GREY, FOUND, ("cat", "dog"), score=0.5)
    assert (GREY == 128).all()
    assert share(drawn[119, 40:140], ORANGE) == share(drawn[70:120, 40], ORANGE) == 1  # edges of the first
    assert share(drawn[149, 180:260], BLUE) == share(drawn[80:150, 259], BLUE) == 1
    assert share(drawn[121:], (128, 128, 128)) > 0.9
    assert share(drawn[150:, :170], (128, 128, 128)) == 1  # the third is unlikely
    tag = drawn[30:50, 40:100]
    assert share(tag, ORANGE) > 0.2  # a plate above the box, with text on it
    assert share(tag, (0, 0, 0)) > 0.02


def test_true_boxes_are_dashed():
    nothing = Detections(np.zeros((0, 4), "float32"), np.zeros(0, "float32"), np.zeros(0, "int64"))
    drawn = drawn_detections(GREY, nothing, ("cat", "dog"), TRUTH)
    edge = drawn[40, 40:140]
    assert 0.4 < share(edge, (255, 255, 255)) < 0.6
    assert share(edge, (255, 255, 255)) + share(edge, (0, 0, 0)) == 1
    assert share(drawn[60:160, 60:120], (128, 128, 128)) == 1


def test_boxes_of_one_pixel_and_at_the_edges(tmp_path):
    found = Detections(
        np.float32([[0, 0, 0, 0], [0, 0, 299, 199], [299, 199, 299, 199]]),
        np.ones(3, "float32"),
        np.arange(3),
    )
    draw_detections(tmp_path / "drawn.png", GREY, found, ("cat", "dog", "sheep"), TRUTH)
    with Image.open(tmp_path / "drawn.png") as image:
        np.testing.assert_array_equal(
            np.asarray(image), drawn_detections(GREY, found, ("cat", "dog", "sheep"), TRUTH)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.png"]


@pytest.mark.parametrize("classes", [1, 7])
def test_precision_and_recall(tmp_path, classes):
    rng = np.random.default_rng(0)
    right = [np.cumsum(rng.integers(0, 2, 30)) for _ in range(classes)]
    curves = [PrecisionRecall(found, int(found[-1]) + 2, np.arange(30)[::-1]) for found in right]
    curves[-1] = PrecisionRecall(np.zeros(0, "int64"), 0, np.zeros(0))  # neither objects nor detections
    names = tuple(f"class {number}" for number in range(classes))
    draw_precision_recall(DetectionFigures(names, tuple(curves)), tmp_path / "curves.png", "area")
    with Image.open(tmp_path / "curves.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1300
    coloured = (np.ptp(pixels.astype(int), axis=2) > 60).mean()
    assert (coloured > 0.005) == (classes > 1)  # bars and curves, where there are any
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
