"""Max pools of slices against the pools of three frameworks, where pixels tie, too."""

import jax
import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from rfd_tf.layers import pool_by_slices
from tests.contract import to_numpy


def network(shape, size, stride, **options):
    maps = keras.Input(shape)
    return keras.Model(maps, keras.layers.MaxPooling2D(size, stride, name="pool", **options)(maps))


def tied(shape):
    """As after a ReLU: mostly zeros, and few different values else."""
    return np.maximum(np.random.default_rng(0).integers(-6, 4, shape), 0).astype("float32")


def pooled_and_gradient(model, maps, weights, **compiled):
    @tf.function(**compiled)
    def step(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            pooled = model(maps)
            total = tf.reduce_sum(pooled * weights)
        return pooled, tape.gradient(total, maps)

    return [to_numpy(value) for value in step(tf.constant(maps))]


@pytest.mark.parametrize(
    ("side", "size", "stride"), [((13, 13), 3, 2), ((10, 15), 3, 2), ((8, 9), (2, 3), (2, 1))]
)
def test_the_first_maximum_gets_the_gradient(side, size, stride):
    maps = tied((2, *side, 4))
    model = network(maps.shape[1:], size, stride)
    weights = np.random.default_rng(1).normal(size=model(maps).shape).astype("float32")
    expected = pooled_and_gradient(model, maps, weights)  # of TensorFlow's own operation
    pool_by_slices(model)
    assert "call" in vars(model.get_layer("pool"))
    for compiled in (False, True):
        for ours, theirs in zip(
            pooled_and_gradient(model, maps, weights, jit_compile=compiled), expected, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    windows, steps = ((v, v) if isinstance(v, int) else v for v in (size, stride))

    def by_jax(maps):
        pooled = jax.lax.reduce_window(maps, -np.inf, jax.lax.max, (1, *windows, 1), (1, *steps, 1), "VALID")
        return (pooled * weights).sum()

    np.testing.assert_allclose(jax.grad(by_jax)(maps), expected[1], atol=1e-6)
    in_torch = torch.tensor(maps.transpose(0, 3, 1, 2), requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(in_torch, windows, steps)
    (pooled * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()
    np.testing.assert_allclose(in_torch.grad.numpy().transpose(0, 2, 3, 1), expected[1], atol=1e-6)


def test_what_is_not_finite_stays():
    maps = tied((1, 7, 7, 1))
    maps[0, 0, 0, 0], maps[0, 2, 2, 0], maps[0, 6, 6, 0] = np.nan, np.inf, -np.inf
    model = network((7, 7, 1), 3, 2)
    pool_by_slices(model)
    # NumPy's maximum; TensorFlow's own on a processor passes NaN over.
    expected = [[maps[0, i : i + 3, j : j + 3, 0].max() for j in (0, 2, 4)] for i in (0, 2, 4)]
    np.testing.assert_array_equal(to_numpy(model(maps))[0, ..., 0], expected)
    assert np.isnan(expected[0][0])
    assert np.isinf(expected[1][1])


@pytest.mark.parametrize(("shape", "options"), [((8, 8, 2), {"padding": "same"}), ((None, None, 2), {})])
def test_what_does_not_fit_pools_as_before(shape, options):
    model = network(shape, 3, 2, **options)
    maps = tied((1, 8, 8, 2))
    expected = to_numpy(model(maps))
    pool_by_slices(model)
    np.testing.assert_array_equal(to_numpy(model(maps)), expected)


def test_files_stay_keras_own(tmp_path):
    model = network((7, 7, 1), 3, 2)
    pool_by_slices(model)
    model.save(tmp_path / "model.keras")
    assert "call" not in vars(keras.saving.load_model(tmp_path / "model.keras").get_layer("pool"))
