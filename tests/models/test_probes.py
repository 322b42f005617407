"""Probes against PyTorch modules with the same weights: forward and training steps, in doubles."""

import keras
import numpy as np
import pytest
import torch

from rfd_tf.models import ProbedModel, linear_probe, nonlinear_probe
from rfd_tf.models.heads import default_pool_size
from rfd_tf.optimizers import CoupledSGD
from tests.models import torch_probes
from tests.torch_reference import relative_difference

BATCH, CHANNELS, SIDE, CLASSES, STEPS = 12, 5, 13, 7, 4


@pytest.fixture(autouse=True)
def doubles():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def pair(kind):
    torch.manual_seed(0)
    shape = (SIDE, SIDE, CHANNELS)
    if kind == "linear":
        theirs = torch_probes.linear(CHANNELS, 5, CLASSES)
        ours = linear_probe(shape, CLASSES, pool_size=5)
    else:
        convolution = kind == "nonlinear with a convolution"
        theirs = torch_probes.nonlinear(CHANNELS, SIDE, 8, CLASSES, convolution)
        ours = nonlinear_probe(shape, CLASSES, convolution=convolution, width=8)
    theirs = theirs.double()
    torch_probes.copy_weights(theirs, ours)
    return theirs, ours


@pytest.mark.parametrize("kind", ["linear", "nonlinear", "nonlinear with a convolution"])
def test_forward_and_training_are_pytorchs(kind):
    theirs, ours = pair(kind)
    rng = np.random.default_rng(0)
    maps, labels = (
        rng.normal(size=(STEPS, BATCH, SIDE, SIDE, CHANNELS)),
        rng.integers(CLASSES, size=(STEPS, BATCH)),
    )
    images = torch.tensor(np.moveaxis(maps, -1, 2))
    theirs.eval()
    logits = theirs(images[0]).detach().numpy()
    assert relative_difference(ours(maps[0], training=False), logits) < 1e-12

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = ProbedModel({"a": ours}, {"a": "map"}, {"a": loss})
    model.compile(CoupledSGD(0.01, 0.9, nesterov=True, coupled_weight_decay=5e-4))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    theirs.train()
    for step in range(STEPS):
        found = model.train_on_batch({"map": maps[step]}, labels[step], return_dict=True)
        model.reset_metrics()
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(theirs(images[step]), torch.tensor(labels[step]))
        expected.backward()
        optimizer.step()
        # Metrics are kept in float32.
        np.testing.assert_allclose(found["a_loss"], expected.item(), rtol=1e-6)
    logits = theirs(images[0]).detach().numpy()  # with the batch's own statistics, which both take alike
    assert relative_difference(ours(maps[0], training=True), logits) < 1e-9


def test_the_published_pool_sizes_are_the_default_rule():
    """AlexNet's conv1 to conv5 at 224 x 224."""
    shapes = ((64, 55), (192, 27), (384, 13), (256, 13), (256, 13))
    assert [default_pool_size(*shape) for shape in shapes] == [12, 7, 5, 6, 6]
    assert default_pool_size(16, 4) == 4  # no more than there is
    assert linear_probe((13, 13, 256), 10).get_layer("linear_probe_classifier").kernel.shape == (9216, 10)


def test_initial_weights_spread_by_fan_out():
    """The original's std is sqrt(2 / units), whatever the number of inputs."""
    keras.utils.set_random_seed(0)
    kernel, bias = linear_probe((6, 6, 64), 50).get_layer("linear_probe_classifier").get_weights()
    assert kernel.std() == pytest.approx(np.sqrt(2 / 50), rel=0.02)
    assert not bias.any()
    probe = nonlinear_probe((7, 7, 32), 50, convolution=True, width=64)
    stds = {
        name: probe.get_layer(f"nonlinear_probe_{name}").kernel.numpy().std()
        for name in ("conv", "dense1", "dense2", "classifier")
    }
    expected = {"conv": 2 / (9 * 32), "dense1": 2 / 64, "dense2": 2 / 64, "classifier": 2 / 50}
    for name, variance in expected.items():
        assert stds[name] == pytest.approx(np.sqrt(variance), rel=0.05), name


def test_vectors_are_not_pooled():
    features = np.random.default_rng(0).normal(size=(4, 9))
    for probe in (linear_probe((9,), 3, cosine=True), nonlinear_probe((9,), 3, width=4)):
        assert probe(features).shape == (4, 3)
    cosines = linear_probe((9,), 3, cosine=True)(features)
    assert np.abs(cosines).max() <= 1


def test_what_probes_refuse():
    with pytest.raises(ValueError, match=r"\[H, W, C\] or \[D\]"):
        linear_probe((None, None, 3), 4)
    with pytest.raises(ValueError, match="sides >= 3"):
        nonlinear_probe((2, 2, 4), 4)
    with pytest.raises(ValueError, match="convolution needs a map"):
        nonlinear_probe((5,), 4, convolution=True)
