import collections

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import Preprocessing, Source
from rfd_tf.features.extract import ImageReader
from tests.data.images import encoded, random_image


class Shelf(Source):
    """Images that Python gives out, some of them only when asked again."""

    def __init__(self, contents, moody=()):
        super().__init__("shelf", None, None)
        self.contents = contents
        self.moody = set(moody)
        self.asked = collections.Counter()

    def __len__(self):
        return len(self.contents)

    def fetch(self, index):
        return tf.ensure_shape(tf.numpy_function(self.read, [index], tf.string), [])

    def read(self, index):
        index = int(index)
        self.asked[index] += 1
        if index in self.moody and self.asked[index] == 1:
            raise OSError("try again")
        if self.contents[index] is None:
            raise OSError("gone")
        return self.contents[index]

    def describe(self, index):
        return f"shelf[{index}]"


GOOD = [encoded(random_image(seed=i)) for i in range(10)]
RECIPE = Preprocessing(8, "resize")


def read(source, rows, batch_size=3):
    """Indices, images and bad ones of all batches."""
    index, images, bad = [], [], {}
    for batch_index, batch_images, batch_bad in ImageReader(source, RECIPE).batches(rows, batch_size):
        assert len(batch_index) == len(batch_images)
        index += batch_index.tolist()
        images += list(batch_images)
        bad |= batch_bad
    return index, images, bad


@pytest.mark.parametrize("broken", [[], [0], [9], [0, 1, 2, 3], [6, 7, 8, 9], [2, 5, 6], list(range(10))])
def test_gaps_anywhere(broken):
    contents = [b"nothing" if i in broken else content for i, content in enumerate(GOOD)]
    source = Shelf(contents)
    index, images, bad = read(source, range(10))
    assert index == [i for i in range(10) if i not in broken]
    assert list(bad) == broken
    for i, image in zip(index, images, strict=True):
        np.testing.assert_array_equal(image, RECIPE.eval_image(tf.constant(GOOD[i])).numpy())
    assert all(source.asked[i] == 1 for i in index)  # none is read twice but the bad


def test_rows_are_chosen():
    assert read(Shelf(GOOD), [1, 4, 8])[0] == [1, 4, 8]


def test_a_passing_failure_loses_no_image():
    index, images, bad = read(Shelf(GOOD, moody=[0, 4, 9]), range(10))
    assert index == list(range(10))
    assert not bad
    for i, image in zip(index, images, strict=True):
        np.testing.assert_array_equal(image, RECIPE.eval_image(tf.constant(GOOD[i])).numpy())


def test_a_disk_that_is_gone_is_no_bad_image():
    with pytest.raises(OSError, match=r"None of 3 images can be read, as shelf\[0\]: .*gone"):
        read(Shelf([None] * 3), range(3))
    _, _, bad = read(Shelf([None, GOOD[0]]), range(2))
    assert "gone" in bad[0]
