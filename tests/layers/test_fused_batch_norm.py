import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.layers.fused_batch_norm import fuse_batch_norm
from tests.contract import to_numpy

SHAPE = (3, 5, 4, 6)


def network(shape=SHAPE, dtype="float32", **options):
    keras.utils.set_random_seed(0)
    layer = keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=1e-5,
        gamma_initializer="random_uniform",
        beta_initializer="random_normal",
        name="bn",
        dtype=dtype,
        **options,
    )
    images = keras.Input(shape[1:])
    return keras.Model(images, keras.layers.ReLU()(layer(images)))


def steps(model, shape=SHAPE, count=3):
    """Outputs, gradients and moving statistics over a few training steps."""
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        values, weights = rng.normal(3, 2, shape), rng.normal(size=shape)
        values, weights = tf.constant(values, tf.float32), tf.constant(weights, tf.float32)

        @tf.function
        def step(values=values, weights=weights):
            with tf.GradientTape() as tape:
                tape.watch(values)
                outputs = model(values, training=True)
                loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
            watched = [values, *(variable.value for variable in model.trainable_variables)]
            return [outputs, *tape.gradient(loss, watched)]

        found += [*step(), *model.non_trainable_variables, model(values, training=False)]
    return [to_numpy(value) for value in found]


@pytest.mark.parametrize(
    "options", [{}, {"center": False}, {"scale": False}, {"center": False, "scale": False}]
)
def test_trains_as_keras_does(options):
    expected = steps(network(**options))
    model = network(**options)
    fuse_batch_norm(model)
    assert "call" in vars(model.get_layer("bn"))
    for ours, theirs in zip(steps(model), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_one_value_per_channel():
    """Its variance is 0, not 0 / 0."""
    shape = (1, 1, 1, 4)
    model = network(shape)
    fuse_batch_norm(model)
    for ours, theirs in zip(steps(model, shape), steps(network(shape), shape), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_mixed_precision_stays_close():
    model = network(dtype="mixed_bfloat16")
    fuse_batch_norm(model)
    for ours, theirs in zip(steps(model), steps(network(dtype="mixed_bfloat16")), strict=True):
        np.testing.assert_allclose(ours.astype("float32"), theirs.astype("float32"), rtol=0.02, atol=0.02)


def test_frozen_layers_stay():
    model = network()
    fuse_batch_norm(model)
    model.get_layer("bn").trainable = False
    values = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    np.testing.assert_array_equal(to_numpy(model(values, training=True)), to_numpy(model(values)))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (SHAPE, {"axis": 1}),
        (SHAPE, {"synchronized": True}),
        ((3, 6), {}),
        ((3, 4, 6), {}),
        (SHAPE, {"dtype": "float64"}),
    ],
)
def test_what_does_not_fit_is_left_alone(shape, options):
    model = network(shape, **options)
    fuse_batch_norm(model)
    assert "call" not in vars(model.get_layer("bn"))


def test_layers_of_inner_models_are_found_and_files_stay_keras_own(tmp_path):
    inner = network()
    model = keras.Sequential([keras.Input(SHAPE[1:]), inner])
    fuse_batch_norm(model)
    assert "call" in vars(inner.get_layer("bn"))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    layer = again.layers[-1].get_layer("bn")
    assert type(layer) is keras.layers.BatchNormalization
    assert "call" not in vars(layer)
