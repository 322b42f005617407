import numpy as np
import pytest
from keras import ops

from rfd_tf.rotations import four_views, rotation_labels


def test_views_are_numpys_quarter_turns_side_by_side():
    images = np.random.default_rng(0).normal(size=(3, 5, 5, 2)).astype("float32")
    views = ops.convert_to_numpy(four_views(images))
    assert views.shape == (12, 5, 5, 2)
    for i in range(3):
        for k in range(4):
            np.testing.assert_array_equal(views[4 * i + k], np.rot90(images[i], k))


def test_labels_follow_the_views():
    labels = rotation_labels(2)
    assert labels.dtype == np.int32
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"square.*\(1, 4, 5, 3\)"):
        four_views(np.zeros((1, 4, 5, 3), "float32"))
