"""Convolutions on blocks of pixels against Keras's own, and that the layers stay Keras's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.layers import use_space_to_depth
from rfd_tf.models import alexnet
from tests.contract import to_numpy


def network(side, filters=5, kernel=11, stride=4, channels=3, dtype="float32", **options):
    keras.utils.set_random_seed(0)
    images = keras.Input((*side, channels))
    layer = keras.layers.Conv2D(
        filters, kernel, stride, bias_initializer="random_normal", name="conv", dtype=dtype, **options
    )
    return keras.Model(images, layer(images))


def outputs_and_gradients(model, images, **compiled):
    @tf.function(**compiled)
    def step(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images, training=True)
            loss = tf.reduce_sum(tf.sin(tf.cast(outputs, tf.float32)))
        return [outputs, *tape.gradient(loss, [images, *(v.value for v in model.trainable_variables)])]

    return [to_numpy(value) for value in step(tf.constant(images, tf.float32))]


@pytest.mark.parametrize(
    ("side", "kernel", "stride"),
    [
        ((228, 228), 11, 4),  # AlexNet's, after its padding
        ((30, 37), 11, 4),  # pixels that no window reaches, and blocks that reach beyond
        ((29, 26), 7, 2),  # a ResNet's stem
        ((16, 18), (4, 6), 2),
        ((9, 10), (3, 5), 2),
        ((11, 14), 11, 4),  # one window
    ],
)
def test_equals_the_convolution(side, kernel, stride):
    images = np.random.default_rng(0).normal(size=(2, *side, 3))
    model = network(side, kernel=kernel, stride=stride)
    expected = outputs_and_gradients(model, images)
    use_space_to_depth(model)
    assert "convolution_op" in vars(model.get_layer("conv"))
    for ours, theirs in zip(outputs_and_gradients(model, images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    if side == (228, 228):
        for ours, theirs in zip(
            outputs_and_gradients(model, images, jit_compile=True), expected, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_mixed_precision_stays_close():
    images = np.random.default_rng(1).normal(size=(2, 27, 27, 3))
    model = network((27, 27), dtype="mixed_bfloat16")
    expected = to_numpy(tf.cast(model(images), tf.float32))
    use_space_to_depth(model)
    np.testing.assert_allclose(to_numpy(tf.cast(model(images), tf.float32)), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 5},
        {"stride": 1},
        {"kernel": 4, "stride": 4},
        {"padding": "same"},
        {"stride": (4, 2)},
        {"groups": 3, "filters": 6},
    ],
)
def test_what_does_not_fit_is_left_alone(options):
    model = network((30, 30), **options)
    use_space_to_depth(model)
    assert "convolution_op" not in vars(model.get_layer("conv"))


def test_images_of_unknown_size_are_convolved_as_before():
    model = network((None, None))
    images = np.random.default_rng(2).normal(size=(1, 40, 50, 3)).astype("float32")
    expected = to_numpy(model(images))
    use_space_to_depth(model)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def call(images):
        return model(images)

    np.testing.assert_array_equal(call(images), expected)


def test_weights_and_files_are_as_before(tmp_path):
    model = alexnet((63, 63, 3), ["conv1"])
    names = [(variable.path, variable.shape) for variable in model.variables]
    use_space_to_depth(model)
    assert [(variable.path, variable.shape) for variable in model.variables] == names
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert "convolution_op" not in vars(again.get_layer("conv1_conv"))
    images = np.random.default_rng(3).normal(size=(2, 63, 63, 3)).astype("float32")
    found, expected = to_numpy(model(images)["conv1"]), to_numpy(again(images)["conv1"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
