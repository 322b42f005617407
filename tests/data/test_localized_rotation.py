import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import (
    LOCALIZED_ROTATIONS,
    ArraySource,
    Preprocessing,
    evaluation_dataset,
    localized_rotation,
)
from rfd_tf.data.pipeline import rotate_patch
from tests.data.datasets import training_dataset

SIZE = 8
IMAGE = np.arange(SIZE * SIZE * 3, dtype="float32").reshape(SIZE, SIZE, 3)


def numpy_patch(top, left, side, turns):
    expected = IMAGE.copy()
    patch = slice(top, top + side), slice(left, left + side)
    expected[patch] = np.rot90(IMAGE[patch], turns)
    return expected


def draws(kind, count=400):
    function = tf.function(lambda seed: localized_rotation(tf.constant(IMAGE), kind, seed))
    found = [function(tf.constant([3, n], tf.int64)) for n in range(count)]
    return [image.numpy() for image, _ in found], np.array([int(label) for _, label in found])


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(
    ("top", "left", "side"), [(0, 0, 4), (0, 4, 4), (4, 0, 4), (1, 3, 5), (6, 5, 2), (0, 0, 8)]
)
def test_a_patch_is_turned_as_numpy_turns_it(top, left, side, turns):
    found = rotate_patch(tf.constant(IMAGE), top, left, side, turns)
    np.testing.assert_array_equal(found, numpy_patch(top, left, side, turns))


def test_explicit_labels_name_quadrant_and_rotation():
    images, labels = draws("explicit")
    assert set(labels) == set(range(LOCALIZED_ROTATIONS["explicit"]))
    assert np.bincount(labels).min() > 8  # of 25
    for image, label in zip(images, labels, strict=True):
        quadrant, turns = divmod(label, 4)
        top, left = quadrant // 2 * 4, quadrant % 2 * 4
        np.testing.assert_array_equal(image, numpy_patch(top, left, 4, turns))


def test_implicit_labels_name_the_rotation_of_a_patch_anywhere():
    images, labels = draws("implicit")
    assert np.bincount(labels).min() > 70  # of 100
    squares = {}
    for image, label in zip(images, labels, strict=True):
        changed = np.argwhere((image != IMAGE).any(axis=-1))
        if label == 0:
            assert not len(changed)
            continue
        # The corners of a turned square move; an odd one's centre stays.
        (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
        side = bottom - top + 1
        assert side == right - left + 1
        squares[int(top), int(left), int(side)] = True
        np.testing.assert_array_equal(image, numpy_patch(top, left, side, label))
    assert {side for *_, side in squares} == {2, 3, 4}
    assert {top for top, *_ in squares} == set(range(7))
    assert {left for _, left, _ in squares} == set(range(7))


@pytest.mark.parametrize(("kind", "size"), [("explicit", 7), ("explicit", 2), ("implicit", 3), ("other", 8)])
def test_out_of_range(kind, size):
    with pytest.raises(ValueError, match=f"{kind!r}" if kind == "other" else f"image_size={size}"):
        localized_rotation(tf.zeros([size, size, 3]), kind, tf.constant([0, 0]))


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    return ArraySource(rng.integers(0, 256, (20, SIZE, SIZE, 3), dtype="uint8"), rng.integers(0, 3, 20))


RECIPE = Preprocessing(SIZE, train="resize", flip=False)


def batches(source, **options):
    options = {
        "batch_size": 4,
        "seed": 1,
        "epochs": 2,
        "rotate_locally": "explicit",
        "with_labels": True,
    } | options
    return list(training_dataset(source, RECIPE, **options).as_numpy_iterator())


def test_batches_hold_turned_images_and_what_was_done(source):
    upright = next(iter(evaluation_dataset(source, RECIPE, 20)))[0]["image"].numpy()
    found = batches(source)
    seen = {}
    for features, labels in found:
        assert set(features) == {"image", "index", "localized_rotation"}
        np.testing.assert_array_equal(labels, source.labels[features["index"]])
        for image, index, label in zip(
            *(features[k] for k in ("image", "index", "localized_rotation")), strict=True
        ):
            quadrant, turns = divmod(int(label), 4)
            rows, columns = (slice(4 * q, 4 * q + 4) for q in divmod(quadrant, 2))
            expected = upright[index].copy()
            expected[rows, columns] = np.rot90(expected[rows, columns], turns)
            np.testing.assert_allclose(image, expected, atol=1e-6)
            seen.setdefault(int(index), []).append(int(label))
    assert any(len(set(labels)) == 2 for labels in seen.values())  # drawn anew in each epoch


def test_a_resumed_run_sees_the_same(source):
    for resumed, whole in zip(batches(source, start_step=6), batches(source)[6:], strict=True):
        for name in whole[0]:
            np.testing.assert_array_equal(resumed[0][name], whole[0][name])


def test_images_that_cannot_be_cut_are_refused_before_training(source):
    with pytest.raises(ValueError, match="image_size=7"):
        training_dataset(
            source,
            Preprocessing(7, train="resize"),
            batch_size=4,
            seed=0,
            epochs=1,
            rotate_locally="explicit",
        )
