import heapq

import numpy as np
import pytest

from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection import detector as module
from rfd_tf.detection.detector import DetectionOptions, Detections, distinct_regions
from rfd_tf.detection.voc_metrics import limit_average
from rfd_tf.metrics import inclusive_iou
from tests.detection.test_boxes import random_boxes


def select(*arguments):
    return {name: value.numpy() for name, value in module.select(*arguments).items()}


def suppressed(boxes, scores, iou):
    """Greedy, from the definition."""
    kept, overlaps = [], inclusive_iou(boxes, boxes)
    for row in np.argsort(-scores, kind="stable"):
        if (overlaps[row, kept] <= iou).all():
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
    np.testing.assert_allclose(found["scores"], [score for score, _, _ in expected])
    assert found["labels"].tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found["boxes"], [box for _, _, box in expected], atol=1e-4)


def fast_rcnns_test(scores, boxes, average=40, most_of_class=100):
    """As Fast R-CNN's code tests: of scores [N, P, C] and boxes [N, P, C, 4] the rows that are kept.

    By class and image; heaps of each class's best scores over the set, then suppression.
    """
    images, _, classes = scores.shape
    floors, best, kept = np.full(classes, -np.inf), [[] for _ in range(classes)], {}
    for image in range(images):
        for label in range(classes):
            rows = np.flatnonzero(scores[image, :, label] > floors[label])
            rows = rows[np.argsort(-scores[image, rows, label], kind="stable")[:most_of_class]]
            for score in scores[image, rows, label]:
                heapq.heappush(best[label], score)
            if len(best[label]) > average * images:
                while len(best[label]) > average * images:
                    heapq.heappop(best[label])
                floors[label] = best[label][0]
            kept[label, image] = rows
    for (label, image), rows in kept.items():
        rows = rows[scores[image, rows, label] > floors[label]]
        own = boxes[image, rows, label]
        kept[label, image] = rows[suppressed(own, scores[image, rows, label], 0.3)]
    return kept


@pytest.mark.parametrize(("average", "most_of_class"), [(4, 10), (10, 10), (3, 40)])
def test_a_set_is_tested_as_in_fast_rcnns_code(average, most_of_class):
    rng = np.random.default_rng(average)
    images, proposals, classes = 5, 30, 3
    boxes = np.stack([random_boxes(rng, proposals, side=60) for _ in range(images)])
    probabilities = rng.dirichlet(np.full(classes + 1, 0.3), (images, proposals)).astype("float32")
    probabilities[0] **= 3  # one image in which little is likely
    deltas = np.zeros((proposals, classes + 1, 4), "float32")
    options = DetectionOptions(score=0.0, nms_iou=0.3, most=0, most_of_class=most_of_class)
    found = {
        str(image): Detections(**select(boxes[image], probabilities[image], deltas, 90, 90, options))
        for image in range(images)
    }
    assert found["0"].candidates.shape == (classes, min(most_of_class, proposals))
    kept = limit_average(found, average)
    moved = np.repeat(boxes[:, :, None], classes, axis=2)
    expected = fast_rcnns_test(probabilities[..., 1:], moved, average, most_of_class)
    for (label, image), rows in expected.items():
        own = kept[str(image)].labels == label
        np.testing.assert_array_equal(kept[str(image)].scores[own], probabilities[image, rows, label + 1])
        np.testing.assert_allclose(kept[str(image)].boxes[own], boxes[image, rows], atol=1e-4)
    counts = [len(of.scores) for of in kept.values()], [len(of.scores) for of in found.values()]
    assert (counts[0] == counts[1]) == (average == most_of_class)


def test_without_limits_all_but_what_overlaps_is_found():
    rng = np.random.default_rng(9)
    boxes = random_boxes(rng, 40, side=80)
    probabilities = rng.dirichlet(np.ones(3), 40).astype("float32")
    options = DetectionOptions(score=0.0, nms_iou=0.3, most=0)
    found = select(boxes, probabilities, np.zeros((40, 3, 4)), 90, 90, options)
    assert set(found) == {"boxes", "scores", "labels"}
    kept = [suppressed(boxes, probabilities[:, label], 0.3) for label in (1, 2)]
    assert sorted(found["scores"]) == sorted(probabilities[rows, n] for n in (1, 2) for rows in kept[n - 1])
    with pytest.raises(ValueError, match="set `most_of_class`"):
        limit_average({"a": Detections(**found)}, 40)
    with pytest.raises(ValueError, match="average_of_class=-1"):
        limit_average({}, -1)


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
    assert found["boxes"].shape == (0, 4)
    assert len(found["scores"]) == len(found["labels"]) == 0


def test_regions_of_the_same_cells_are_one():
    rng = np.random.default_rng(3)
    scaled = rng.uniform(-40, 90, (300, 4)).astype("float32").round(1)
    scaled[200:] = scaled[:100] + 0.01
    scaled[0], scaled[1] = -1e9, 1e9
    rows, shared = (value.numpy() for value in distinct_regions(scaled, 16))
    cells = np.sign(scaled) * np.floor(np.abs(scaled) / np.float32(16) + 0.5)  # halves away from 0
    cells = np.clip(cells, -(2**14), 2**14 - 1)
    first = {}
    for row, four in enumerate(map(tuple, cells)):
        first.setdefault(four, row)
    assert len(first) < 220
    assert sorted(rows) == sorted(first.values())
    np.testing.assert_array_equal(rows[shared], [first[tuple(four)] for four in cells])


@pytest.mark.parametrize(
    "options",
    [
        {"short_sides": ()},
        {"short_sides": (600, 0)},
        {"longest": 0},
        {"most": -1},
        {"most_of_class": -1},
        {"score": 1.0},
        {"nms_iou": -0.1},
    ],
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        DetectionOptions(**options)
