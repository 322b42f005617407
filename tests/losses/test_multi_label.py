import numpy as np
import pytest
import tensorflow as tf
import torch

from rfd_tf.losses import MultiLabelLoss
from tests.contract import check_config_round_trip


def test_against_torch_with_gradient():
    """Difficult-only labels (0) add nothing; the rest is summed over classes and divided by the images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (7, 20)).astype("int8")
    logits = 5 * rng.normal(size=(7, 20)).astype("float32")
    logits[0, 0], labels[0, 0] = 1e4, -1
    ours = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = MultiLabelLoss()(labels, ours)
    theirs = torch.tensor(logits, requires_grad=True)
    truth = torch.tensor(np.where(labels == 1, 1.0, 0.0).astype("float32"))
    each = torch.nn.functional.binary_cross_entropy_with_logits(theirs, truth, reduction="none")
    expected = each[torch.tensor(labels != 0)].sum() / 7
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    gradient = tape.gradient(value, ours).numpy()
    np.testing.assert_allclose(gradient, theirs.grad, rtol=1e-4, atol=1e-8)
    assert (gradient[labels == 0] == 0).all()


def test_against_numpy():
    labels, logits = np.array([[1, -1, 0]]), np.array([[0.5, 2.0, 9.0]])
    expected = -np.log(1 / (1 + np.exp(-0.5))) - np.log(1 - 1 / (1 + np.exp(-2.0)))
    assert float(MultiLabelLoss()(labels, logits)) == pytest.approx(expected, rel=1e-6)


def test_contract_and_errors():
    check_config_round_trip(MultiLabelLoss())
    for labels, logits in (((2, 3), (2, 4)), ((2,), (2,))):
        with pytest.raises(ValueError, match="must be \\[B, C\\]"):
            MultiLabelLoss()(np.zeros(labels), np.zeros(logits))
