import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import ArraySource, Preprocessing, random_crops_dataset
from rfd_tf.data.schedule import TEST_CROPS, stream

SOURCE = ArraySource(np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), dtype="uint8"), None)
RECIPE = Preprocessing(16, "random_resized_crop", resize=16, min_area=0.1, max_area=0.5)


def crops(*arguments) -> dict[int, np.ndarray]:
    """Image -> its crops [K, S, S, 3]."""
    batches = random_crops_dataset(SOURCE, RECIPE, *arguments).as_numpy_iterator()
    return {
        int(index): images
        for batch in batches
        for index, images in zip(batch["index"], batch["image"], strict=True)
    }


def test_a_function_of_seed_image_and_number():
    found = crops(2, 3, 7)
    assert list(found) == [0, 1, 2, 3, 4]
    again = crops(1, 3, 7, np.array([4, 1]))
    assert list(again) == [4, 1]
    np.testing.assert_equal(again[4], found[4])
    np.testing.assert_equal(crops(5, 2, 7)[3], found[3][:2])
    assert len({crop.tobytes() for images in found.values() for crop in images}) == 15
    other = crops(2, 3, 8)
    assert not any(np.array_equal(other[index], found[index]) for index in found)
    for number in range(3):
        seed = stream(7, TEST_CROPS, tf.constant(number, tf.int64), tf.constant(2, tf.int64))
        expected = RECIPE.train_image(SOURCE.fetch(tf.constant(2, tf.int64)), seed)
        np.testing.assert_allclose(found[2][number], expected, atol=1e-5)


def test_out_of_range():
    with pytest.raises(ValueError, match="at least 1"):
        random_crops_dataset(SOURCE, RECIPE, 0, 3, 0)
    with pytest.raises(ValueError, match="at least 1"):
        random_crops_dataset(SOURCE, RECIPE, 1, 0, 0)
    with pytest.raises(ValueError, match="9"):
        random_crops_dataset(SOURCE, RECIPE, 1, 1, 0, np.array([9]))
