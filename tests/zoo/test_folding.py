import keras
import numpy as np
import pytest

import zoo
from rfd_tf.models import alexnet, resnet_cifar


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low, high = (0.5, 1.5) if variable.path.endswith(("gamma", "variance")) else (-0.1, 0.1)
        if not variable.path.endswith("kernel"):
            variable.assign(rng.uniform(low, high, variable.shape))
    return model


@pytest.mark.parametrize(
    "model",
    [
        lambda: alexnet(dense_width=16),
        lambda: alexnet((96, 80, 3), ("conv3", "conv5")),
        lambda: resnet_cifar(20),
    ],
)
def test_same_outputs_without_batch_norm(model):
    backbone = randomize(model())
    before = [weight.copy() for weight in backbone.get_weights()]
    folded = zoo.fold_batch_norm(backbone)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers)
    images = np.random.default_rng(1).standard_normal((2, *backbone.input_shape[1:])).astype("float32")
    expected = backbone(images, training=False)
    actual = folded(images, training=False)
    assert list(actual) == list(expected)
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=1e-4 * scale, err_msg=name)
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_folded_alexnet_is_the_caffe_form():
    folded = zoo.fold_batch_norm(alexnet(dense_width=16))
    caffe_form = alexnet(dense_width=16, use_batch_norm=False)
    assert {v.path: v.shape for v in folded.weights} == {v.path: v.shape for v in caffe_form.weights}


def chain(*layers):
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, {"x": x})


def test_norms_without_scale_or_center():
    for options in ({"scale": False}, {"center": False}, {"scale": False, "center": False}):
        convolution = keras.layers.Conv2D(4, 3, use_bias=False)
        zoo.fold_batch_norm(randomize(chain(convolution, keras.layers.BatchNormalization(**options))))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([keras.layers.Conv2D(4, 3)], "has no batch norm"),
        ([keras.layers.ReLU(), keras.layers.BatchNormalization(name="late")], "'late' cannot be folded"),
        ([keras.layers.BatchNormalization(name="first")], "'first' cannot be folded"),
        (
            [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.BatchNormalization(name="n")],
            "'n' cannot be folded",
        ),
        ([keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(axis=1, name="n")], "works on axis 1"),
    ],
)
def test_what_cannot_be_folded(layers, message):
    with pytest.raises(ValueError, match=message):
        zoo.fold_batch_norm(chain(*layers))


def test_a_layer_that_others_use_as_well():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    outputs = {"a": keras.layers.BatchNormalization(name="n")(x), "b": keras.layers.ReLU()(x)}
    with pytest.raises(ValueError, match="'n' cannot be folded"):
        zoo.fold_batch_norm(keras.Model(inputs, outputs))
    with pytest.raises(ValueError, match="'n' cannot be folded"):
        zoo.fold_batch_norm(keras.Model(inputs, {"a": outputs["a"], "x": x}))
