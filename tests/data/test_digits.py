import numpy as np
import pytest
from sklearn.datasets import load_digits

from rfd_tf.data import digits


def test_splits_share_out_all_scans():
    train, validation = digits("train"), digits("validation")
    assert (len(train), len(validation)) == (1352, 445)
    assert train.images.shape == (1352, 8, 8, 3)
    assert train.images.dtype == np.uint8
    scans = load_digits()
    both = np.concatenate([train.images, validation.images])[..., 0] / 255 * 16
    assert sorted(map(bytes, np.round(both).astype("uint8"))) == sorted(
        map(bytes, scans.images.astype("uint8"))
    )
    assert np.bincount(validation.labels).tolist() == (np.bincount(scans.target) // 4).tolist()


def test_every_fourth_of_a_class_is_validation():
    scans = load_digits()
    sevens = scans.images[scans.target == 7]
    source = digits("validation")
    mine = source.images[source.labels == 7][..., 0]
    np.testing.assert_array_equal(mine, np.round(sevens[3::4] / 16 * 255))


def test_unknown_split():
    with pytest.raises(ValueError, match=r"train.*validation.*Received: split='test'"):
        digits("test")
