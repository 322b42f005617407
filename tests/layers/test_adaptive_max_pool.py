import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import torch

from rfd_tf.layers import AdaptiveMaxPool2D
from tests.contract import check_layer, to_numpy

SIZES = [(55, 12), (27, 7), (13, 5), (13, 6), (6, 6), (8, 4), (3, 5), (1, 3), (7, 1), (10, 9)]


def maps(height, width, channels=3):
    return np.random.default_rng(height * width).normal(size=(2, height, width, channels)).astype("float32")


def in_torch(inputs, size):
    images = torch.tensor(np.moveaxis(inputs, -1, 1), requires_grad=True)
    pooled = torch.nn.AdaptiveMaxPool2d(size)(images)
    pooled.backward(torch.arange(pooled.numel(), dtype=pooled.dtype).reshape(pooled.shape))
    return [np.moveaxis(value.detach().numpy(), 1, -1) for value in (pooled, images.grad)]


@pytest.mark.parametrize(("length", "size"), SIZES)
def test_values_and_gradients_are_pytorchs(length, size):
    import tensorflow as tf

    for inputs in (maps(length, length), maps(length, 13), maps(5, length)):
        expected, expected_gradient = in_torch(inputs, size)
        variable = tf.Variable(inputs)
        with tf.GradientTape() as tape:
            pooled = AdaptiveMaxPool2D(size)(variable)
        np.testing.assert_array_equal(pooled.numpy(), expected)
        # Different in every element, in PyTorch's order.
        upstream = np.arange(expected.size, dtype="float32").reshape(np.moveaxis(expected, -1, 1).shape)
        gradient = tape.gradient(pooled, variable, tf.constant(np.moveaxis(upstream, 1, -1)))
        np.testing.assert_allclose(tf.convert_to_tensor(gradient).numpy(), expected_gradient, rtol=1e-6)


def test_every_size_of_pytorch():
    for length in range(1, 20):
        for size in range(1, 14):
            inputs = maps(length, 4, 1)
            found = to_numpy(AdaptiveMaxPool2D(size)(inputs))
            np.testing.assert_array_equal(found, in_torch(inputs, size)[0], err_msg=f"{length} to {size}")


def test_contract(tmp_path):
    check_layer(AdaptiveMaxPool2D(3), maps(7, 8), tmp_path)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="size=0"):
        AdaptiveMaxPool2D(0)
    for shape in ((None, None, 3), (4,)):
        with pytest.raises(ValueError, match=r"shape \[B, H, W, C\]"):
            AdaptiveMaxPool2D(2)(keras.Input(shape))


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "size"), [("tensorflow", 1), ("jax", 7)])
def test_keras_own_layer_still_cannot_replace_it(backend, size):
    """When this fails, `keras.layers.AdaptiveMaxPooling2D` has PyTorch's bins there, and ours may go."""
    code = (
        "import keras, numpy as np, torch\n"
        "maps = np.random.default_rng(0).normal(size=(1, 14, 14, 1)).astype('float32')\n"
        f"found = keras.ops.convert_to_numpy(keras.layers.AdaptiveMaxPooling2D({size})(maps))\n"
        f"expected = torch.nn.AdaptiveMaxPool2d({size})(torch.tensor(maps[..., 0])).numpy()\n"
        "np.testing.assert_array_equal(found[..., 0], expected)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode
