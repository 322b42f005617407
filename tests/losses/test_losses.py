import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F

from rfd_tf.losses import nce_loss, rotation_invariance_loss


def test_invariance_against_torch_with_gradient():
    features = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
    ours = tf.Variable(features)
    with tf.GradientTape() as tape:
        value = rotation_invariance_loss(ours)
    theirs = torch.tensor(features, requires_grad=True)
    by_image = theirs.view(3, 4, 5)
    mean = by_image.mean(1, keepdim=True).detach()
    expected = F.mse_loss(by_image, mean.expand_as(by_image))
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(tape.gradient(value, ours), theirs.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("num_instances", [50, 1_281_167])
def test_nce_against_the_formula_with_gradient(num_instances):
    rng = np.random.default_rng(0)
    similarities = (10 * np.tanh(rng.normal(size=(6, 33)))).astype("float32")
    normalizer = float(np.exp(similarities).mean() * num_instances)
    ours = tf.Variable(similarities)
    with tf.GradientTape() as tape:
        value = nce_loss(ours, normalizer, num_instances)
    theirs = torch.tensor(similarities, dtype=torch.float64, requires_grad=True)
    scores = torch.exp(theirs) / normalizer
    noise, epsilon = 32 / num_instances, 1e-7
    expected = (
        -(
            torch.log(scores[:, 0] / (scores[:, 0] + noise + epsilon)).sum()
            + torch.log(noise / (scores[:, 1:] + noise + epsilon)).sum()
        )
        / 6
    )
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-4)
    np.testing.assert_allclose(tape.gradient(value, ours), theirs.grad, rtol=1e-4, atol=1e-7)


def test_nce_of_the_most_unlike_pair_is_finite():
    similarities = np.full((2, 3), -1 / 0.07, "float32")
    assert np.isfinite(float(nce_loss(similarities, 1e30, 10)))
