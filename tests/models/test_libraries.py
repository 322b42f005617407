"""Backbones of Keras Applications, KerasCV, KerasHub, and one's own: the same features, heads and files."""

import keras
import numpy as np
import pytest

import zoo
from rfd_tf.models import InstanceTask, RotationDecoupling, create_backbone, named_features
from tests.contract import to_numpy

rng = np.random.default_rng(0)
STAGES = ("stage2", "stage3", "stage4", "stage5")


def network(input_shape=(32, 32, 3)) -> keras.Model:
    """One of the user's own: maps at strides 4, 8 and 16, a gate on the side of the last."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 4, 4, name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    for number, filters in enumerate((6, 8)):
        x = keras.layers.ReLU(name=f"end{number}")(x)
        x = keras.layers.ZeroPadding2D(1, name=f"pad{number}")(x)
        x = keras.layers.Conv2D(filters, 3, 2, name=f"down{number}")(x)
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = keras.layers.Multiply(name="gated")([x, keras.layers.Activation("sigmoid")(gate)])
    return keras.Model(inputs, x, name="own")


def not_functional(input_shape):
    class Subclassed(keras.Model):
        pass

    return Subclassed()


LIBRARIES = (
    ("keras.applications.MobileNetV2", (144, 192, 576, 1280, 1280)),
    ("keras_cv.ResNet18", (64, 128, 256, 512, 512)),
    ("keras_hub.ResNet18", (64, 128, 256, 512, 512)),
)


@pytest.mark.parametrize(("name", "widths"), LIBRARIES)
def test_stages_of_a_library(name, widths, tmp_path):
    if not name.startswith("keras.applications"):
        pytest.importorskip(name.partition(".")[0])
    names = [*STAGES, "pool", "fc_block"]
    backbone = create_backbone(name, (64, 64, 3), names, dense_width=8, synchronized=True)
    shapes = {feature: tuple(tensor.shape[1:]) for feature, tensor in backbone.output.items()}
    maps = {
        stage: (side, side, width) for stage, side, width in zip(STAGES, (16, 8, 4, 2), widths, strict=False)
    }
    assert shapes == {**maps, "pool": widths[-1:], "fc_block": (8,)}
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) > 10
    assert all(norm.synchronized for norm in norms)
    assert all(norm.momentum == 0.9 for norm in norms)  # in KerasCV 0.99, in MobileNet 0.999
    images = rng.normal(size=(2, 64, 64, 3)).astype("float32")
    backbone.save(tmp_path / "backbone.keras")
    again = keras.saving.load_model(tmp_path / "backbone.keras")
    for feature, expected in backbone(images).items():
        np.testing.assert_allclose(to_numpy(again(images)[feature]), to_numpy(expected), atol=1e-5)
    # Another one, whose layers Keras numbers otherwise, begins with those weights.
    other = create_backbone(name, (64, 64, 3), names, dense_width=8)
    zoo.resolve_init(str(tmp_path / "backbone.keras"), other)
    for theirs, ours in zip(other.get_weights(), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def test_a_published_file_sets_all_but_the_dense_block(tmp_path):
    network().save(tmp_path / "published.keras")
    backbone = create_backbone("tests.models.test_libraries:network", (32, 32, 3), ["pool", "fc_block"])
    fresh = backbone.get_layer("fc6").get_weights()[0]
    zoo.resolve_init(str(tmp_path / "published.keras"), backbone)
    published = keras.saving.load_model(tmp_path / "published.keras")
    np.testing.assert_array_equal(
        backbone.get_layer("down1").get_weights()[0], published.get_layer("down1").get_weights()[0]
    )
    np.testing.assert_array_equal(backbone.get_layer("fc6").get_weights()[0], fresh)


def test_stages_are_maps_that_everything_passes():
    own = network()
    backbone = create_backbone(own)
    shapes = {feature: tuple(tensor.shape[1:]) for feature, tensor in backbone.output.items()}
    assert shapes == {"stage2": (8, 8, 4), "stage3": (4, 4, 6), "stage4": (2, 2, 8), "pool": (8,)}
    images = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    found = backbone(images)
    np.testing.assert_array_equal(to_numpy(found["stage4"]), to_numpy(own(images)))
    end = keras.Model(own.inputs, own.get_layer("end0").output)
    np.testing.assert_array_equal(to_numpy(found["stage2"]), to_numpy(end(images)))


def test_a_model_of_the_users_is_not_changed():
    own = network()
    before, config = own.get_weights(), own.get_config()
    backbone = create_backbone(own, synchronized=True)
    assert backbone.get_layer("stem_bn").synchronized
    assert not own.get_layer("stem_bn").synchronized
    assert backbone.get_layer("stem_bn").momentum == 0.99
    for ours, theirs in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    backbone.set_weights([weight + 1 for weight in before])
    assert own.get_config() == config
    for now, then in zip(own.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_dict_of_outputs_gives_the_features():
    inputs = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(4, 3, name="first")(inputs)
    own = keras.Model(inputs, {"low": first, "high": keras.layers.Conv2D(6, 3)(first)})
    assert list(named_features(own).output) == ["low", "high", "pool"]
    assert named_features(own, ["fc_block"], dense_width=4).output["fc_block"].shape == (None, 4)


def test_rotation_decoupling_takes_any_functional_model():
    own = network()
    model = RotationDecoupling(own, 10, instance_task=InstanceTask(num_negatives=2, embedding_dim=4))
    assert model.feature_name == "pool"
    outputs = model({"image": rng.normal(size=(2, 32, 32, 3)), "index": np.arange(2)})
    assert outputs["invariant_features"].shape == (8, 4)
    again = RotationDecoupling.from_config(model.get_config())
    assert again.feature_name == "pool"


@pytest.mark.parametrize("name", ["EfficientNetB0", "MobileNetV3Small"])
def test_images_come_normalised(name):
    backbone = create_backbone(f"keras.applications.{name}", (32, 32, 3), ["pool"])
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    assert not any(isinstance(layer, scaling) for layer in backbone.layers)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tests.models.test_libraries:nothing", {}, "has no 'nothing'"),
        ("tests.models.test_libraries:not_functional", {}, "functional"),
        ("tests.models.nowhere:network", {}, "`backbone.name`: 'tests.models.nowhere' cannot be imported"),
        ("tests.models.test_libraries:network", {"feature_names": ["stage5"]}, "Unknown feature 'stage5'"),
        ("tests.models.test_libraries:network", {"feature_names": ["pool"], "dense_width": 4}, "dense_width"),
    ],
)
def test_what_cannot_be_a_backbone(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(name, (32, 32, 3), **options)


def test_two_inputs_are_refused():
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    own = keras.Model(inputs, keras.layers.Add()(inputs))
    with pytest.raises(ValueError, match="one input"):
        create_backbone(own)
    with pytest.raises(ValueError, match="norm_scale_init"):
        create_backbone(network(), norm_scale_init="uniform")
