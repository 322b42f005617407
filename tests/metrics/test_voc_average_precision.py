"""Average precision against a computation of its own, written from VOC's definition in whole numbers."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from rfd_tf.metrics import detection_precision_recall, image_precision_recall, inclusive_iou


def exact_iou(a, b) -> Fraction:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)

    def area(box):
        return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)

    return Fraction(width * height, area(a) + area(b) - width * height)


def marked(detections, objects) -> list[bool]:
    """Which counted detections (image, score, box) are right, by falling score.

    Objects: image -> list of (box, difficult).
    """
    found, marks = set(), []
    for _, image, box in sorted(
        ((-score, n), image, box) for n, (image, score, box) in enumerate(detections)
    ):
        best, overlap = None, Fraction(-1)
        for number, (other, _) in enumerate(objects.get(image, [])):
            if exact_iou(box, other) > overlap:
                best, overlap = number, exact_iou(box, other)
        if overlap < Fraction(1, 2):
            marks.append(False)
        elif not objects[image][best][1]:
            marks.append((image, best) not in found)
            found.add((image, best))
    return marks


def exact_ap(marks, positives, rule) -> Fraction | None:
    if not positives:
        return None
    points = []
    for count in range(1, len(marks) + 1):
        right = sum(marks[:count])
        points.append((Fraction(right, positives), Fraction(right, count)))

    def best_from(recall):
        return max((p for r, p in points if r >= recall), default=Fraction(0))

    if rule == "11_point":
        return sum((best_from(Fraction(k, 10)) for k in range(11)), Fraction(0)) / 11
    levels = sorted({r for r, _ in points} | {Fraction(0)})
    return sum(((high - low) * best_from(high) for low, high in itertools.pairwise(levels)), Fraction(0))


def box_near(rng, box=None):
    if box is None:
        x, y = rng.integers(0, 60, 2)
        return [int(v) for v in (x, y, x + rng.integers(1, 30), y + rng.integers(1, 30))]
    moved = np.array(box) + rng.integers(-6, 7, 4)
    return [int(v) for v in (*moved[:2], *np.maximum(moved[2:], moved[:2]))]


def random_set(rng):
    """Few images, boxes near objects, scores of few values (ties), repeated detections, empty classes."""
    objects = {}
    for image in range(int(rng.integers(0, 5))):
        count = int(rng.integers(0, 4))
        objects[image] = [(box_near(rng), bool(rng.random() < 0.3)) for _ in range(count)]
    everything = [(image, box) for image, found in objects.items() for box, _ in found]
    detections = []
    for _ in range(int(rng.integers(0, 25))):
        score = float(rng.integers(0, 8)) / 8
        if everything and rng.random() < 0.7:
            image, box = everything[rng.integers(len(everything))]
            detections.append((image, score, box if rng.random() < 0.2 else box_near(rng, box)))
        else:
            detections.append((int(rng.integers(0, 6)), score, box_near(rng)))
        if rng.random() < 0.2:
            detections.append(detections[-1])
    return detections, objects


@pytest.mark.parametrize("rule", ["11_point", "area"])
def test_200_random_detection_sets(rule):
    rng = np.random.default_rng(7)
    seen = {"empty": 0, "difficult": 0, "right": 0, "tie": 0}
    for case in range(200):
        detections, objects = random_set(rng)
        marks = marked(detections, objects)
        positives = sum(not difficult for found in objects.values() for _, difficult in found)
        expected = exact_ap(marks, positives, rule)
        found = detection_precision_recall(
            [image for image, _, _ in detections],
            [score for _, score, _ in detections],
            [box for _, _, box in detections],
            {image: [box for box, _ in boxes] for image, boxes in objects.items()},
            {image: [difficult for _, difficult in boxes] for image, boxes in objects.items()},
        )
        assert np.diff(found.true_positives, prepend=0).tolist() == [int(mark) for mark in marks], case
        assert found.num_positives == positives
        value = found.average_precision(rule)
        if expected is None:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(float(expected), abs=1e-14), case
        seen["empty"] += expected is None
        seen["difficult"] += len(marks) < len(detections)
        seen["right"] += sum(marks) > 1
        seen["tie"] += len({score for _, score, _ in detections}) < len(detections)
    assert min(seen.values()) > 20  # each kind of case did come up


@pytest.mark.parametrize("rule", ["11_point", "area"])
def test_100_random_rankings_of_images(rule):
    rng = np.random.default_rng(8)
    for _ in range(100):
        count = int(rng.integers(1, 40))
        scores, labels = rng.integers(0, 6, count) / 4, rng.choice([-1, 0, 1], count, p=[0.6, 0.1, 0.3])
        order = sorted(range(count), key=lambda n: (-scores[n], n))
        marks = [bool(labels[n] == 1) for n in order if labels[n] != 0]
        expected = exact_ap(marks, int(sum(labels == 1)), rule)
        value = image_precision_recall(scores, labels).average_precision(rule)
        assert math.isnan(value) if expected is None else value == pytest.approx(float(expected), abs=1e-14)


def test_three_of_ten_reach_a_recall_of_three_tenths():
    """As floats 3 / 10 < 3 * 0.1."""
    labels = [1, 1, 1] + [-1] * 10 + [1] * 7
    found = image_precision_recall(-np.arange(20.0), labels)
    tail = max(k / (k + 10) for k in range(4, 11))
    assert found.average_precision() == pytest.approx((4 * 1.0 + 7 * tail) / 11)


def test_inclusive_pixels():
    np.testing.assert_allclose(
        inclusive_iou([[0, 0, 9, 9]], [[0, 0, 9, 4], [10, 0, 19, 9], [9, 9, 9, 9]]), [[0.5, 0, 0.01]]
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="nan"):
        image_precision_recall([0.1, float("nan")], [1, -1])
    with pytest.raises(ValueError, match=r"Labels.*2"):
        image_precision_recall([0.1], [2])
    with pytest.raises(ValueError, match=r"\(2,\)"):
        image_precision_recall([0.1, 0.2], [1])
    with pytest.raises(ValueError, match="1, 2, 1"):
        detection_precision_recall([0], [0.1, 0.2], [[0, 0, 1, 1]], {}, {})
    with pytest.raises(ValueError, match="finite"):
        detection_precision_recall([0], [0.1], [[0, 0, 1, float("inf")]], {}, {})
    with pytest.raises(ValueError, match="rule"):
        image_precision_recall([0.1], [1]).average_precision("12_point")
