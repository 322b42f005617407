import keras
import numpy as np
import pytest
import torch
from keras import ops

from rfd_tf.layers import CosineDense
from rfd_tf.layers.cosine_dense import l2_normalize
from tests.contract import check_layer, to_numpy

rng = np.random.default_rng(0)


def test_cosine_dense_contract(tmp_path):
    check_layer(CosineDense(4), rng.normal(size=(5, 6)).astype("float32"), tmp_path)


def test_cosine_dense_is_the_cosine():
    layer = CosineDense(3)
    inputs = rng.normal(size=(5, 6)).astype("float32")
    outputs = to_numpy(layer(inputs))
    kernel = to_numpy(layer.kernel)
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), np.ones(3), rtol=1e-5)
    layer.kernel.assign(kernel * [1.0, 7.0, 0.1])  # norms do not matter
    np.testing.assert_allclose(to_numpy(layer(inputs)), outputs, rtol=1e-5, atol=1e-6)
    expected = torch.nn.functional.normalize(torch.tensor(inputs)) @ torch.nn.functional.normalize(
        torch.tensor(kernel), dim=0
    )
    np.testing.assert_allclose(outputs, expected.numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="units=1"):
        CosineDense(1)


def test_l2_normalize_at_zero_has_a_finite_gradient():
    import tensorflow as tf

    x = tf.Variable([[0.0, 0.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        y = l2_normalize(x)
        total = ops.sum(y)
    np.testing.assert_allclose(y.numpy(), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.isfinite(tape.gradient(total, x).numpy()).all()
    assert keras.backend.backend() == "tensorflow"
