import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F

from rfd_tf.losses import instance_softmax_loss, nce_loss, rotation_invariance_loss


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


def test_nce_in_float32_at_imagenets_size():
    """Thousands of terms, each the small difference of two numbers near log(K / N), summed exactly enough."""
    rng = np.random.default_rng(1)
    num_instances, count = 1_281_167, 4096
    similarities = (rng.uniform(-1, 1, (32, 1 + count)) / 0.07 / 3).astype("float32")
    normalizer = float(np.exp(similarities.astype("float64")).mean() * num_instances)
    scores = np.exp(similarities.astype("float64")) / normalizer
    noise, epsilon = count / num_instances, 1e-7
    positive = np.log(scores[:, 0] / (scores[:, 0] + noise + epsilon)).sum()
    negatives = np.log(noise / (scores[:, 1:] + noise + epsilon)).sum()
    value = float(nce_loss(similarities, np.float32(normalizer), num_instances))
    assert value == pytest.approx(-(positive + negatives) / 32, rel=1e-6)


@pytest.mark.parametrize("whole_bank", [False, True])
def test_instance_softmax_is_torchs_cross_entropy_with_gradient(whole_bank):
    rng = np.random.default_rng(0)
    similarities = (5 * rng.normal(size=(6, 33))).astype("float32")
    positives = rng.integers(0, 33, 6) if whole_bank else np.zeros(6, int)
    ours = tf.Variable(similarities)
    with tf.GradientTape() as tape:
        value = instance_softmax_loss(tf.identity(ours), positives if whole_bank else None)
    theirs = torch.tensor(similarities, dtype=torch.float64, requires_grad=True)
    expected = F.cross_entropy(theirs, torch.tensor(positives))
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(tape.gradient(value, ours), theirs.grad, rtol=1e-4, atol=1e-7)
