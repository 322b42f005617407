import numpy as np
import pytest

from rfd_tf.data.voc import Annotation
from rfd_tf.detection.coco_metrics import coco_figures
from rfd_tf.detection.detector import Detections
from rfd_tf.metrics import detection_precision_recall, inclusive_iou

THRESHOLDS = np.linspace(0.5, 0.95, 10)
NAMES = ("cat", "dog")


def detections(*rows):
    """Of (box, score, label)."""
    rows = sorted(rows, key=lambda row: -row[1])
    boxes = np.array([box for box, _, _ in rows], "float32").reshape(-1, 4)
    return Detections(boxes, np.float32([r[1] for r in rows]), np.array([r[2] for r in rows], "int64"))


def annotation(*rows):
    """Of (box, label, difficult)."""
    boxes = np.array([box for box, _, _ in rows], "float32").reshape(-1, 4)
    return Annotation(
        500, 400, boxes, np.array([r[1] for r in rows], "int64"), np.array([r[2] for r in rows], bool)
    )


def averaged(right, num_objects):
    """By the rule of 101 points; `right` of the counted detections by falling score."""
    right = np.array(right, bool)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    recall = np.cumsum(right) / num_objects
    return np.mean([max(precision[recall >= point], default=0.0) for point in np.linspace(0, 1, 101)])


def matched(found, truth, label, threshold):
    """(score, right) of an image's counted detections: each takes the free object that it overlaps most, a
    difficult one only where there is none else, and any number of detections may take that one."""
    own, there = found.labels == label, truth.labels == label
    overlaps = (
        inclusive_iou(found.boxes[own], truth.boxes[there]) if there.any() else np.zeros((own.sum(), 0))
    )
    difficult, free = truth.difficult[there], np.ones(there.sum(), bool)
    verdicts = []
    for score, row in zip(found.scores[own], overlaps, strict=True):
        easy = np.flatnonzero((row >= threshold) & free & ~difficult)
        if len(easy):
            free[easy[row[easy].argmax()]] = False
            verdicts.append((score, True))
        elif not ((row >= threshold) & difficult).any():
            verdicts.append((score, False))
    return verdicts


def random_scenes(seed, images=6):
    rng = np.random.default_rng(seed)
    found, truth = {}, {}
    for number in range(images):
        corners = rng.integers(0, 120, (7, 2))
        boxes = np.concatenate([corners, corners + rng.integers(5, 150, (7, 2))], axis=1)
        truth[f"p{number}"] = annotation(*((box, rng.integers(2), rng.random() < 0.3) for box in boxes))
        moved = np.repeat(boxes, 3, axis=0) + rng.integers(-6, 7, (21, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
        scores = rng.permutation(21) / 21 + number / 1000
        found[f"p{number}"] = detections(
            *((box, score, rng.integers(2)) for box, score in zip(moved, scores, strict=True))
        )
    return found, truth


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(seed):
    found, truth = random_scenes(seed)
    figures = coco_figures(dict(reversed(found.items())), truth, NAMES)  # the order does not matter
    expected = np.zeros((2, 10))
    for label in range(2):
        objects = sum(int((t.labels[~t.difficult] == label).sum()) for t in truth.values())
        for place, threshold in enumerate(THRESHOLDS):
            verdicts = [v for name in truth for v in matched(found[name], truth[name], label, threshold)]
            expected[label, place] = averaged([right for _, right in sorted(verdicts, reverse=True)], objects)
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_allclose(figures.class_ap, expected.mean(axis=1), atol=1e-9)
    assert figures.ap == pytest.approx(expected.mean())
    assert figures.ap_50 == pytest.approx(expected[:, 0].mean())
    assert figures.ap_75 == pytest.approx(expected[:, 5].mean())


def test_at_half_overlap_as_voc_but_for_the_101_points():
    """Where objects do not overlap each other, both match alike."""
    rng = np.random.default_rng(5)
    corners = np.stack(np.meshgrid(np.arange(3), np.arange(3)), axis=-1).reshape(-1, 2) * 100
    found, truth, flat = {}, {}, []
    for number in range(4):
        boxes = np.concatenate([corners, corners + 60], axis=1)
        truth[str(number)] = annotation(*((box, 0, rng.random() < 0.3) for box in boxes))
        moved = np.repeat(boxes, 2, axis=0) + rng.integers(-18, 19, (18, 4))
        rows = [(box, score, 0) for box, score in zip(moved, rng.permutation(18) + number / 9, strict=True)]
        found[str(number)] = detections(*rows)
        flat += [(str(number), score, box) for box, score, _ in rows]
    images, scores, boxes = zip(*flat, strict=True)
    curve = detection_precision_recall(
        list(images),
        scores,
        boxes,
        {name: t.boxes for name, t in truth.items()},
        {name: t.difficult for name, t in truth.items()},
    )
    right = np.diff(curve.true_positives, prepend=0)
    assert 0.2 < right.mean() < 0.9
    figures = coco_figures(found, truth, ("cat",))
    assert figures.ap_50 == pytest.approx(averaged(right, curve.num_positives))
    assert figures.ap_50 == pytest.approx(curve.average_precision("area"), abs=0.02)


def test_difficult_objects_neither_count_nor_swallow_what_lies_within_them():
    easy, hard, within = [0, 0, 99, 99], [200, 0, 399, 199], [250, 50, 299, 99]
    truth = {"a": annotation((easy, 0, False), (hard, 0, True))}
    twice = {"a": detections((hard, 0.9, 0), (hard, 0.8, 0), (easy, 0.7, 0))}
    assert coco_figures(twice, truth, NAMES).ap == pytest.approx(1)
    part = {"a": detections((within, 0.9, 0), (easy, 0.7, 0))}
    assert coco_figures(part, truth, NAMES).ap == pytest.approx(0.5)


def test_sizes_and_recalls_by_hand(capsys):
    small, medium, large = [0, 0, 30, 30], [100, 0, 190, 90], [200, 100, 300, 200]
    truth = {"a": annotation((small, 0, False), (medium, 0, False), (large, 0, False)), "b": annotation()}
    found = {"a": detections((medium, 0.9, 0), (large, 0.8, 0)), "b": detections()}
    figures = coco_figures(found, truth, NAMES)
    assert (figures.ap_small, figures.ap_medium, figures.ap_large) == pytest.approx((0, 1, 1))
    assert figures.ap == pytest.approx(67 / 101)  # recall 0, 0.01, ..., 0.66 of two thirds
    assert (figures.ar_small, figures.ar_medium, figures.ar_large) == (0.0, 1.0, 1.0)
    assert figures.ar_1 == pytest.approx(1 / 3)
    assert figures.ar_10 == figures.ar_100 == pytest.approx(2 / 3)
    np.testing.assert_allclose(figures.class_ap, [67 / 101, np.nan])
    assert "| AP, IoU 0.50 | 66.3 |" in figures.table()
    assert capsys.readouterr().out == ""


def test_nothing_to_find():
    figures = coco_figures({"a": detections()}, {"a": annotation()}, NAMES)
    assert np.isnan(figures.ap)
    assert np.isnan(figures.class_ap).all()
    assert "| AP, IoU 0.50 to 0.95 | - |" in figures.table()


def test_other_images():
    with pytest.raises(ValueError, match="b is in one only"):
        coco_figures({"a": detections(), "b": detections()}, {"a": annotation()}, NAMES)
