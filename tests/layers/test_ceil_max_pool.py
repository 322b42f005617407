"""Against PyTorch's max pooling with `ceil_mode`, which is Caffe's where nothing is padded."""

import keras
import numpy as np
import pytest
import torch

from rfd_tf.layers import CeilMaxPooling2D
from tests.contract import check_config_round_trip, check_layer, to_numpy


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (3, 1), (5, 3), ((3, 2), (2, 1))])
def test_equals_pytorch(size, stride):
    rng = np.random.default_rng(0)
    for height, width in ((7, 8), (9, 6), (10, 11), (5, 5)):
        maps = rng.normal(-3, 1, size=(2, height, width, 3)).astype("float32")  # all of them below 0
        layer = CeilMaxPooling2D(size, stride)
        found = to_numpy(layer(maps))
        channels_first = torch.tensor(maps).permute(0, 3, 1, 2)
        expected = torch.nn.functional.max_pool2d(channels_first, size, stride, ceil_mode=True)
        np.testing.assert_array_equal(found, expected.permute(0, 2, 3, 1).numpy())
        assert layer.compute_output_shape(maps.shape) == found.shape


def test_contract(tmp_path):
    check_layer(CeilMaxPooling2D(3, 2), np.random.default_rng(1).normal(size=(2, 8, 8, 3)), tmp_path)
    check_config_round_trip(CeilMaxPooling2D(3, 2))
    images = keras.Input((None, None, 3))
    assert CeilMaxPooling2D(3, 2)(images).shape == (None, None, None, 3)


def test_bad_arguments():
    with pytest.raises(ValueError, match="padding='same'"):
        CeilMaxPooling2D(3, 2, padding="same")
    with pytest.raises(ValueError, match="must not be larger than `pool_size`"):
        CeilMaxPooling2D(2, 3)
