"""Against loops written from the rules of Fast R-CNN."""

import numpy as np
import pytest

from rfd_tf.data.voc import Annotation
from rfd_tf.detection.boxes import delta_statistics, match_regions, sample_regions
from rfd_tf.metrics import inclusive_iou
from tests.detection.test_boxes import random_boxes


def random_image(rng, objects=3, proposals=60):
    found = random_boxes(rng, objects)
    difficult = rng.random(objects) < 0.3
    near = (
        found[rng.integers(0, objects, proposals // 2)] + rng.normal(0, 12, (proposals // 2, 4))
        if objects
        else found
    )
    near = np.concatenate(
        [np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], axis=1
    )
    annotation = Annotation(500, 500, found, rng.integers(0, 20, objects), difficult)
    return annotation, np.concatenate([near, random_boxes(rng, proposals // 2)]).astype("float32")


@pytest.mark.parametrize("seed", range(5))
def test_matches_equal_a_loop(seed):
    annotation, proposals = random_image(np.random.default_rng(seed))
    regions = match_regions(proposals, annotation)
    easy = np.flatnonzero(~annotation.difficult)
    np.testing.assert_array_equal(regions.boxes, [*annotation.boxes[easy], *proposals])
    for box, overlap, label, delta in zip(
        regions.boxes, regions.overlaps, regions.labels, regions.deltas, strict=True
    ):
        if not len(easy):
            assert (overlap, label) == (0, 0)
            continue
        found = inclusive_iou(box[None], annotation.boxes[easy])[0]
        best = easy[found.argmax()]
        assert overlap == pytest.approx(found.max(), abs=1e-5)
        assert label == annotation.labels[best] + 1
        w, h = box[2:] - box[:2] + 1
        true = annotation.boxes[best].astype("float64")
        expected = np.zeros(4)
        if found.max() >= 0.5:
            shift = (true[:2] + true[2:] - box[:2] - box[2:]) / 2 / (w, h)
            expected = [*shift, np.log((true[2] - true[0] + 1) / w), np.log((true[3] - true[1] + 1) / h)]
        np.testing.assert_allclose(delta, expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_as_in_fast_rcnns_code_difficult_objects_are_learnt_and_boxes_are_x2_minus_x1_wide(seed):
    annotation, proposals = random_image(np.random.default_rng(seed))
    annotation.difficult[:2] = True
    regions = match_regions(proposals, annotation, learn_difficult=True, exclusive=True)
    np.testing.assert_array_equal(regions.boxes, [*annotation.boxes, *proposals])
    assert not regions.deltas[: len(annotation.boxes)].any()
    foreground = 0
    for box, overlap, label, delta in zip(
        regions.boxes, regions.overlaps, regions.labels, regions.deltas, strict=True
    ):
        found = inclusive_iou(box[None], annotation.boxes)[0]  # overlaps are of x2 - x1 + 1 there, too
        true = annotation.boxes[found.argmax()].astype("float64")
        assert overlap == pytest.approx(found.max(), abs=1e-5)
        assert label == annotation.labels[found.argmax()] + 1
        if found.max() < 0.5:
            assert not delta.any()
            continue
        foreground += 1
        w, h = box[2:] - box[:2] + 1e-14
        shift = (true[:2] + true[2:] - box[:2] - box[2:]) / 2 / (w, h)
        expected = [*shift, np.log((true[2] - true[0]) / w), np.log((true[3] - true[1]) / h)]
        np.testing.assert_allclose(delta, expected, atol=1e-4)
    assert foreground > 5


def test_regions_one_pixel_wide_do_not_blow_up_the_statistics():
    """x2 - x1 is 0 there: shifts over it would be 1e13."""
    objects = np.float32([[10, 10, 11, 40], [50, 50, 50, 70], [20, 20, 60, 60]])
    annotation = Annotation(100, 100, objects, np.array([0, 0, 0]), np.zeros(3, bool))
    proposals = np.float32([[10, 10, 10, 40], [50, 50, 51, 70], [22, 20, 60, 60]])
    regions = match_regions(proposals, annotation, exclusive=True)
    assert (regions.overlaps >= 0.5).all()
    assert np.abs(regions.deltas).max() < 1
    assert regions.deltas[-1].any()
    assert max(np.abs(values).max() for values in delta_statistics([regions], 1)) <= 1


def test_a_image_without_objects_is_all_background():
    annotation, proposals = random_image(np.random.default_rng(0), objects=0)
    regions = match_regions(proposals, annotation)
    assert not regions.overlaps.any()
    rows, foreground = sample_regions(regions.overlaps, 64, np.random.default_rng(0))
    assert len(rows) == len(foreground) == 0  # below 0.1 nothing is taken, as in the original


@pytest.mark.parametrize(
    ("foreground", "background", "expected"),
    [(50, 200, (16, 48)), (5, 200, (5, 59)), (50, 20, (16, 20)), (0, 100, (0, 64)), (3, 0, (3, 0))],
)
def test_samples_keep_the_shares(foreground, background, expected):
    rng = np.random.default_rng(0)
    overlaps = np.concatenate(
        [rng.uniform(0.5, 1, foreground), rng.uniform(0.1, 0.4999, background), rng.uniform(0, 0.0999, 80)]
    )
    overlaps = rng.permutation(overlaps)
    rows, is_foreground = sample_regions(overlaps, 64, np.random.default_rng(1))
    assert (is_foreground.sum(), (~is_foreground).sum()) == expected
    assert len(set(rows)) == len(rows)
    assert (overlaps[rows[is_foreground]] >= 0.5).all()
    rest = overlaps[rows[~is_foreground]]
    assert ((rest >= 0.1) & (rest < 0.5)).all()
    again, _ = sample_regions(overlaps, 64, np.random.default_rng(1))
    np.testing.assert_array_equal(rows, again)


def test_every_region_is_drawn_as_often():
    overlaps = np.concatenate([np.full(40, 0.7), np.full(100, 0.3)])
    rng = np.random.default_rng(2)
    counts = np.zeros(140)
    for _ in range(500):
        counts[sample_regions(overlaps, 64, rng)[0]] += 1
    for part, share in ((counts[:40], 16 / 40), (counts[40:], 48 / 100)):
        assert np.abs(part / 500 - share).max() < 5 * np.sqrt(share * (1 - share) / 500)


def test_statistics_of_the_deltas():
    rng = np.random.default_rng(3)
    regions = [
        match_regions(proposals, annotation)
        for annotation, proposals in (random_image(rng) for _ in range(10))
    ]
    means, deviations = delta_statistics(regions, 20)
    chosen = {label: [] for label in range(21)}
    for region in regions:
        for overlap, label, delta in zip(region.overlaps, region.labels, region.deltas, strict=True):
            if overlap >= 0.5:
                chosen[label] += [delta, delta * [-1, 1, 1, 1]]  # as it is and mirrored
    assert not means[0].any()
    for label in range(1, 21):
        if len(chosen[label]) > 1:
            np.testing.assert_allclose(means[label], np.mean(chosen[label], axis=0), atol=1e-5)
            np.testing.assert_allclose(deviations[label], np.std(chosen[label], axis=0), rtol=1e-4)
        elif not chosen[label]:
            assert (means[label] == 0).all()
            assert (deviations[label] == 1).all()
    assert (deviations > 0).all()
