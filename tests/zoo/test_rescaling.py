import keras
import numpy as np
import pytest

import zoo
from rfd_tf.models import alexnet
from zoo.rescaling import _chain, _ratios

IMAGES = np.random.default_rng(0).standard_normal((8, 96, 96, 3)).astype("float32")


@pytest.fixture(scope="module")
def lopsided():
    """A trained network stands for: weights of very different sizes from layer to layer."""
    keras.utils.set_random_seed(0)
    model = alexnet((96, 96, 3), dense_width=16, use_batch_norm=False)
    factors = [0.2, 5.0, 1.0, 0.5, 3.0, 1.0, 2.0]
    for layer, factor in zip(_chain(model), factors, strict=True):
        layer.kernel.assign(layer.kernel * factor)
    return model


def ratios_of(model):
    layers = _chain(model)
    trunk = keras.Model(model.inputs[0], model.layers[-1].output)
    noise = np.random.default_rng(0).standard_normal((len(IMAGES), 16)).astype("float32")
    return _ratios(trunk, layers, IMAGES, noise)


def test_all_layers_learn_at_the_same_rate_afterwards(lopsided):
    before, _ = ratios_of(lopsided)
    assert np.ptp(np.log(before)) > 1
    after, deviation = ratios_of(zoo.rescale(lopsided, IMAGES))
    # Each round draws a new gradient, and this is yet another: the ratios agree within their noise.
    assert np.ptp(np.log(after)) < 0.1 * np.ptp(np.log(before))
    assert abs(np.log(deviation)) < 0.2, "the output comes to unit deviation"


def test_the_function_stays_up_to_a_constant_factor(lopsided):
    before = [weight.copy() for weight in lopsided.get_weights()]
    rescaled = zoo.rescale(lopsided, IMAGES)
    other = np.random.default_rng(9).standard_normal((4, 96, 96, 3)).astype("float32")
    expected, actual = lopsided(other, training=False), rescaled(other, training=False)
    for name in expected:
        e, a = np.asarray(expected[name]), np.asarray(actual[name])
        factor = (e * a).sum() / (e * e).sum()
        assert factor > 0
        np.testing.assert_allclose(a, factor * e, rtol=0, atol=1e-4 * np.abs(a).max(), err_msg=name)
    for old, new in zip(before, lopsided.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_ratio_is_the_formulas(lopsided):
    """The gradient of a dense layer without anything behind it is `input.T @ noise`."""
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, name="only")])
    model = keras.Model(model.inputs[0], {"x": model.outputs[0]})
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((4, 5)).astype("float32"), rng.standard_normal((4, 3)).astype("float32")
    layer = model.get_layer("only")
    (ratio,), deviation = _ratios(keras.Model(model.inputs[0], layer.output), [layer], x, noise)
    kernel, _ = layer.get_weights()
    assert ratio == pytest.approx(np.sqrt(((x.T @ noise) ** 2).mean() / (kernel**2).mean()), rel=1e-5)
    assert deviation == pytest.approx((x @ kernel).std(axis=0).mean(), rel=1e-5)


def test_two_rounds_by_numpy():
    """A net of two dense layers with ReLUs, for which the whole procedure fits in a few lines."""
    inputs = keras.Input((1, 1, 6))
    hidden = keras.layers.ReLU()(keras.layers.Dense(8, name="a")(keras.layers.Flatten()(inputs)))
    outputs = keras.layers.ReLU()(keras.layers.Dense(5, name="b")(hidden))
    model = keras.Model(inputs, {"x": outputs})
    rng = np.random.default_rng(4)
    weights = [rng.normal(size=shape) for shape in ((6, 8), (8,), (8, 5), (5,))]
    model.set_weights([weights[0] * 3, weights[1], weights[2] * 0.2, weights[3]])
    x = rng.normal(size=(16, 6)).astype("float32")
    a, bias_a, b, bias_b = (w.astype("float64") for w in model.get_weights())
    draws = np.random.default_rng(0)
    rounds = 0
    for _ in range(10):
        noise = draws.standard_normal((16, 5)).astype("float32").astype("float64")
        h = np.maximum(x @ a + bias_a, 0)
        y = np.maximum(h @ b + bias_b, 0)
        at_b = noise * (y > 0)
        at_a = (at_b @ b.T) * (h > 0)
        gradients = x.T @ at_a, h.T @ at_b
        ratios = [np.sqrt(np.mean(g**2) / np.mean(w**2)) for g, w in zip(gradients, (a, b), strict=True)]
        target = np.sqrt(ratios[0] * ratios[1]) * np.sqrt(y.std(axis=0).mean())
        if max(abs(np.log(r) / np.log(target) - 1) for r in ratios) < 0.01:
            break
        rounds += 1
        factors = [np.sqrt(r / target) for r in ratios]
        a, bias_a = a * factors[0], bias_a * factors[0]
        b, bias_b = b * factors[1], bias_b * factors[0] * factors[1]
    assert rounds >= 2
    rescaled = zoo.rescale(model, x.reshape(16, 1, 1, 6))
    for ours, expected in zip(rescaled.get_weights(), (a, bias_a, b, bias_b), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_folded_then_rescaled():
    keras.utils.set_random_seed(0)
    folded = zoo.fold_batch_norm(alexnet((96, 96, 3), dense_width=16))
    before, _ = ratios_of(folded)
    after, _ = ratios_of(zoo.rescale(folded, IMAGES))
    assert np.ptp(np.log(after)) < 0.5 * np.ptp(np.log(before))


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (
            lambda: alexnet((96, 96, 3), dense_width=16),
            IMAGES,
            "batch norm 'conv1_bn': call zoo.fold_batch_norm",
        ),
        (lambda: alexnet((96, 96, 3), use_batch_norm=False, dense_width=8), IMAGES[0], "`images` must be"),
        (lambda: alexnet((96, 96, 3), use_batch_norm=False, dense_width=8), IMAGES * np.nan, "finite"),
        (
            lambda: alexnet((96, 96, 3), use_batch_norm=False, dense_width=8),
            IMAGES * 0,
            "is dead on these images",
        ),
    ],
)
def test_what_cannot_be_rescaled(model, images, message):
    with pytest.raises(zoo.ZooError, match=message):
        zoo.rescale(model(), images)


def test_only_chains_of_homogeneous_layers():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same")(inputs)
    cases = {
        "does not keep a factor": keras.layers.Activation("tanh")(x),
        "feeds several layers": keras.layers.ReLU()(x) + keras.layers.MaxPooling2D(1)(x),
    }
    for message, output in cases.items():
        with pytest.raises(zoo.ZooError, match=f"{message}|does not keep a factor"):
            zoo.rescale(keras.Model(inputs, {"x": output}), IMAGES[:, :8, :8])
