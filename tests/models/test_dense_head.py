import keras
import numpy as np
import pytest

from rfd_tf.models import (
    MultiLabelClassifier,
    alexnet,
    dense_head,
    dense_weights,
    resnet_cifar,
    set_dense_weights,
)

RNG = np.random.default_rng(0)


def networks():
    """(network, its feature below fc6): with batch norm, without, on a vector."""
    options = {"feature_names": ["pool5", "fc_block"], "dense_width": 12}
    yield alexnet((67, 67, 3), **options), "pool5"
    yield alexnet((95, 67, 3), **options, use_batch_norm=False), "pool5"
    yield resnet_cifar(8, (16, 16, 3), ["pool", "fc_block"], width=4, dense_width=12), "pool"


@pytest.mark.parametrize(("network", "feature"), networks())
def test_a_networks_own_dense_layers_are_taken_over(network, feature):
    for layer in network.layers:
        layer.set_weights([value + RNG.uniform(0.1, 0.5, value.shape) for value in layer.get_weights()])
    images = RNG.normal(size=(3, *network.input_shape[1:])).astype("float32")
    features = network(images, training=False)
    shape = tuple(features[feature].shape[1:])
    head = dense_head(shape, 20, (12, 12))
    set_dense_weights(head, dense_weights(network, shape))
    before_fc8 = keras.Model(head.inputs, head.get_layer("head_fc7").output)
    np.testing.assert_allclose(before_fc8(features[feature]), features["fc_block"], rtol=1e-3, atol=1e-4)


def test_there_may_be_none_of_its_own():
    assert dense_weights(resnet_cifar(8, (16, 16, 3), ["pool"], width=4), (16,)) is None
    network = alexnet((67, 67, 3), ["conv5", "fc_block"], dense_width=12)
    assert dense_weights(network, (3, 3, 256)) is None  # fc6 is on pool5
    assert dense_weights(network, (1, 1, 256))[0][0].shape == (256, 12)


def test_new_weights():
    head = dense_head((3, 3, 8), 20, (300, 200))
    for name, units in (("fc6", 300), ("fc7", 200), ("fc8", 20)):
        kernel, bias = head.get_layer(f"head_{name}").get_weights()
        assert len(bias) == units
        assert (bias == np.float32(0.1)).all()
        assert np.std(kernel) == pytest.approx(0.01, rel=0.1)
    with pytest.raises(ValueError, match=r"\(0, 4\)"):
        dense_head((3,), 20, (0, 4))
    with pytest.raises(ValueError, match=r"1\.0"):
        dense_head((3,), 20, (4, 4), 1.0)


@pytest.fixture
def parts():
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.BatchNormalization(name="norm")(keras.layers.Conv2D(4, 3, name="conv")(inputs))
    return keras.Model(inputs, x, name="trunk"), dense_head((6, 6, 4), 5, (7, 6))


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_trained(parts, frozen):
    """Batch norm keeps its statistics in either case; a frozen trunk is not a part of the state."""
    trunk, head = parts
    model = MultiLabelClassifier(trunk, head, frozen=frozen)
    before = [value.copy() for value in trunk.get_weights()]
    statistics = [value.copy() for value in trunk.get_layer("norm").get_weights()[2:]]
    images = 5 + RNG.normal(size=(6, 8, 8, 3)).astype("float32")
    model.compile("sgd", loss="mse")
    model.fit({"image": images}, RNG.normal(size=(6, 5)), epochs=2, verbose=0)
    np.testing.assert_equal(trunk.get_layer("norm").get_weights()[2:], statistics)
    moved = [not np.array_equal(old, new) for old, new in zip(before, trunk.get_weights(), strict=True)]
    assert any(moved) != frozen
    state = {id(variable) for variable in model.training_state}
    assert {id(variable) for variable in head.variables} <= state
    assert bool(state & {id(variable) for variable in trunk.variables}) != frozen


def test_saved_and_loaded(parts, tmp_path):
    model = MultiLabelClassifier(*parts, frozen=False)
    images = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    expected = model({"image": images})
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.frozen is False
    np.testing.assert_allclose(again({"image": images}), expected, rtol=1e-6)
