import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F

from rfd_tf.imbalance import class_balanced_weights
from rfd_tf.losses import LDAMLoss
from tests.contract import check_config_round_trip

COUNTS = (5000, 645, 50)


def torch_ldam(cosines, labels, counts, max_margin, scale, weights):
    margins = 1.0 / torch.sqrt(torch.sqrt(torch.tensor(counts, dtype=torch.float64)))
    margins = (margins * (max_margin / margins.max())).float()
    shifted = cosines - F.one_hot(labels, len(counts)) * margins[labels][:, None]
    return F.cross_entropy(scale * shifted, labels, weight=weights)


def random_case(rng, batch=8, counts=COUNTS):
    cosines = np.tanh(rng.normal(size=(batch, len(counts)))).astype("float32")
    return cosines, rng.integers(0, len(counts), batch)


def test_fifty_random_cases_equal_torch_with_gradients():
    rng = np.random.default_rng(0)
    for case in range(50):
        counts = rng.integers(1, 10_000, rng.integers(2, 8)).tolist()
        cosines, labels = random_case(rng, int(rng.integers(1, 30)), counts)
        max_margin, scale, beta = rng.uniform(0.1, 1), rng.uniform(1, 40), rng.choice([0, 0.9, 0.9999])
        loss = LDAMLoss(counts, max_margin, scale)
        loss.reweight(beta)
        ours = tf.Variable(cosines)
        with tf.GradientTape() as tape:
            value = loss(labels, ours)
        theirs = torch.tensor(cosines, requires_grad=True)
        inverse = (1 - beta) / (1 - torch.pow(beta, torch.tensor(counts, dtype=torch.float64)))
        weights = (inverse / inverse.sum() * len(counts)).float()
        expected = torch_ldam(theirs, torch.tensor(labels), counts, max_margin, scale, weights)
        expected.backward()
        assert float(value) == pytest.approx(expected.item(), rel=1e-4), case
        gradient = tape.gradient(value, ours).numpy()
        np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=str(case))


def test_sample_weights_scale_without_entering_the_divisor():
    rng = np.random.default_rng(1)
    cosines, labels = random_case(rng)
    sample_weights = rng.uniform(size=8).astype("float32")
    loss = LDAMLoss(COUNTS)
    loss.reweight(0.999)
    class_weights = class_balanced_weights(COUNTS, 0.999)[labels]
    per_example = LDAMLoss(COUNTS, reduction="none")(labels, cosines).numpy()
    expected = (sample_weights * class_weights * per_example).sum() / class_weights.sum()
    assert float(loss(labels, cosines, sample_weights)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(labels[:, None], cosines, sample_weights[:, None])) == pytest.approx(expected, rel=1e-5)


def test_extreme_cosines_stay_finite():
    loss = LDAMLoss([1, 10_000_000])
    for cosine in (-1.0, 0.0, 1.0):
        assert np.isfinite(float(loss([0, 1], np.full((2, 2), cosine, "float32"))))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range(label):
    loss = LDAMLoss(COUNTS)
    cosines = np.zeros((2, 3), "float32")
    with pytest.raises(ValueError, match=rf"\[0, 3\).*{label}"):
        loss([0, label], cosines)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=r"labels must be in \[0, 3\)"):
        tf.function(loss)(tf.constant([0, label]), cosines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_counts": [5, 0]}, "class 1 has 0"),
        ({"class_counts": [5, -2]}, "class 1 has -2"),
        ({"class_counts": COUNTS, "scale": 0}, "scale=0"),
        ({"class_counts": COUNTS, "scale": -3.0}, "scale=-3.0"),
        ({"class_counts": COUNTS, "max_margin": -0.1}, "max_margin=-0.1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LDAMLoss(**arguments)


def test_beta_out_of_range_and_wrong_width():
    loss = LDAMLoss(COUNTS)
    with pytest.raises(ValueError, match=r"beta=1\.2"):
        loss.reweight(1.2)
    with pytest.raises(ValueError, match=r"\[B, 3\]"):
        loss([0], np.zeros((1, 4), "float32"))


def test_config_round_trip():
    check_config_round_trip(LDAMLoss(COUNTS, 0.3, 20.0))


def test_in_compile_and_fit():
    """As any Keras loss, in anyone's model; the model comes back from disk with it."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss=LDAMLoss(COUNTS))
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    history = model.fit(x, np.arange(16) % 3, epochs=2, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_without_a_margin_it_is_the_cross_entropy_of_scaled_cosines():
    cosines, labels = random_case(np.random.default_rng(2))
    expected = F.cross_entropy(10 * torch.tensor(cosines), torch.tensor(labels)).item()
    assert float(LDAMLoss(COUNTS, max_margin=0, scale=10)(labels, cosines)) == pytest.approx(
        expected, rel=1e-5
    )
