"""The feature model over Keras files: a run's folder, its backbone, an exported file."""

import json

import keras
import numpy as np
import pytest

from rfd_tf.data import Preprocessing
from rfd_tf.exporting.export_model import ExportOptions, export_model
from rfd_tf.exporting.parity import bundled_images
from rfd_tf.features import FeatureModel, keras_feature_model, open_feature_model, save_keras
from rfd_tf.features.feature_model import ModelInfo
from rfd_tf.models import InstanceTask, RotationDecoupling, RotationTask, create_backbone, resnet_cifar

RECIPE = {"image_size": 16, "train": "resize", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)}


@pytest.fixture(scope="module")
def trained():
    backbone = create_backbone("resnet8", (16, 16, 3), ["block1", "pool", "fc_block"], width=4, dense_width=8)
    model = RotationDecoupling(
        backbone,
        10,
        feature_name="fc_block",
        rotation_task=RotationTask("cosine"),
        instance_task=InstanceTask(num_negatives=2),
    )
    backbone(np.random.default_rng(0).normal(size=(8, 16, 16, 3)), training=True)  # moves the statistics
    return model


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained.backbone.save(folder / "backbone.keras")
    trained.heads().save(folder / "heads.keras")
    data = {"exif_orientation": True}
    config = {"preprocessing": RECIPE, "backbone": {"feature": "fc_block"}, "data": data}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype("float32")


def test_outputs_of_a_run(run, trained, images):
    feature_model = open_feature_model(run)
    features = feature_model(images)
    expected = {name: np.asarray(value) for name, value in trained.backbone(images, training=False).items()}
    whole = expected.pop("fc_block")
    np.testing.assert_allclose(features["features"], whole, atol=1e-5)
    np.testing.assert_allclose(features["rotation"], whole[:, :4], atol=1e-5)
    np.testing.assert_allclose(features["invariant"], whole[:, 4:], atol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(features[name], value, atol=1e-5)
    assert {name: value.shape[1:] for name, value in features.items()} == feature_model.info.outputs
    logits = np.asarray(trained.rotation_head(whole[:, :4])) * getattr(trained.rotation_loss, "scale", 1.0)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(features["rotation_probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(features["embedding"], axis=1), 1, atol=1e-5)
    assert list(feature_model(images, ["invariant", "pool"])) == ["invariant", "pool"]


def test_exported_file_keeps_its_facts(run, images, tmp_path):
    feature_model = open_feature_model(run, ["block1"])
    save_keras(feature_model, tmp_path / "model.keras")
    again = open_feature_model(tmp_path / "model.keras")
    assert again.info == feature_model.info
    for name, value in feature_model(images).items():
        np.testing.assert_allclose(again(images)[name], value, atol=1e-6)
    with pytest.raises(ValueError, match="no feature map 'conv9'"):
        open_feature_model(tmp_path / "model.keras", ["conv9"])


def nested(policy):
    """A network within a network, as in transfer learning."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(4, 3, dtype=policy),
            keras.layers.BatchNormalization(dtype=policy),
        ]
    )
    images = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D(dtype=policy, name="pool")(inner(images))
    return keras.Model(images, {"pool": pooled})


def state_of(model):
    """All that could be changed in place."""
    layers = model._flatten_layers()
    return [(layer.name, layer.dtype_policy.name, layer.trainable, sorted(vars(layer))) for layer in layers]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["resnet", "nested"])
def test_a_model_handed_in_is_not_changed(kind, policy, images, tmp_path):
    backbone = nested(policy)
    if kind == "resnet":
        backbone = create_backbone("resnet8", (16, 16, 3), width=4)
        for layer in backbone.layers:
            layer.dtype_policy = policy
    before, outputs = state_of(backbone), np.asarray(backbone(images)["pool"])
    feature_model = keras_feature_model(backbone, Preprocessing(**RECIPE), "memory", decoupled=False)
    features = feature_model(images)["features"]
    options = ExportOptions(formats=("saved_model", "keras"), input="uint8")
    export_model(feature_model, tmp_path / "export", options, bundled_images(2))
    assert state_of(backbone) == before
    np.testing.assert_array_equal(np.asarray(backbone(images)["pool"]), outputs)
    assert {layer.compute_dtype for layer in feature_model.model._flatten_layers()} == {"float32"}
    for layer in backbone._flatten_layers():
        layer.dtype_policy = "float32"
    np.testing.assert_allclose(features, np.asarray(backbone(images)["pool"]), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 16, 16, 3), "float32"), "empty batch"),
        (np.zeros((2, 16, 15, 3), "float32"), "must have shape"),
        (np.zeros((2, 16, 16, 3), "uint8"), "dtype uint8"),
        (np.full((2, 16, 16, 3), np.nan, "float32"), "image 0 of the batch"),
    ],
)
def test_bad_images(run, images, message):
    with pytest.raises(ValueError, match=message):
        open_feature_model(run, [])(images)


def test_bad_locations(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="No model at"):
        open_feature_model(tmp_path / "nothing.keras")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has not finished"):
        open_feature_model(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "backbone.keras").write_bytes((run / "backbone.keras").read_bytes())
    with pytest.raises(ValueError, match="does not tell how its images are prepared"):
        open_feature_model(alone / "backbone.keras")
    (alone / "bad.keras").write_text("no model")
    with pytest.raises(ValueError, match=r"bad\.keras: is not a .keras archive"):
        open_feature_model(alone / "bad.keras")
    with pytest.raises(ValueError, match="no output 'nothing'"):
        open_feature_model(run)(np.zeros((1, 16, 16, 3), "float32"), ["nothing"])


def test_info_round_trip():
    info = ModelInfo("net", Preprocessing(**RECIPE), {"features": (8,)}, input="uint8")
    assert ModelInfo.from_json(info.to_json(), "here") == info
    jittered = ModelInfo("net", Preprocessing(8, "resize", color_jitter=(0.4, 0.3, 0.2, 0.1)), {"x": (8,)})
    assert ModelInfo.from_json(jittered.to_json(), "here") == jittered
    mixed = ModelInfo("net", Preprocessing(8, "resize", augment=("mixup",), mixup_alpha=0.4), {"x": (8,)})
    assert ModelInfo.from_json(mixed.to_json(), "here") == mixed
    fields = json.loads(info.to_json())
    assert not {"augment", "rand_augment_ops", "mixup_alpha"} & fields["preprocessing"].keys()  # as before
    for name in ("color_jitter", "color_jitter_probability", "grayscale", "blur", "crops"):
        del fields["preprocessing"][name]
    assert ModelInfo.from_json(json.dumps(fields), "from before they were there") == info
    pixels = np.arange(16 * 16 * 3).reshape(1, 16, 16, 3).astype("uint8")
    np.testing.assert_array_equal(info.to_pixels(info.normalize(pixels)), pixels)
    for text in ("", "[]", "{}", info.to_json().replace('"format": 1', '"format": 2')):
        with pytest.raises(ValueError, match="here: no valid description"):
            ModelInfo.from_json(text, "here")


def test_info_may_name_classes():
    plain, named = (
        ModelInfo("net", Preprocessing(**RECIPE), {"logits": (2,)}, class_names=names)
        for names in ((), ("a", "b"))
    )
    assert "class_names" not in plain.to_json()  # so that earlier versions read it
    for info in (plain, named):
        assert ModelInfo.from_json(info.to_json(), "here") == info
    with pytest.raises(ValueError, match=r"class_names are \[1\]"):
        ModelInfo.from_json(json.dumps(json.loads(plain.to_json()) | {"class_names": [1]}), "here")


def test_fingerprint_is_of_what_the_model_computes(run, trained, tmp_path):
    fingerprint = open_feature_model(run).fingerprint
    assert open_feature_model(run).fingerprint == fingerprint
    assert open_feature_model(run, []).fingerprint != fingerprint
    in_memory = keras_feature_model(
        trained.backbone, Preprocessing(**RECIPE), "memory", feature_name="fc_block", heads=trained.heads()
    )
    assert in_memory.fingerprint == fingerprint
    head = trained.heads().get_weights()
    changed = trained.heads()
    changed.set_weights([head[0] + 1, *head[1:]])
    assert (
        keras_feature_model(
            trained.backbone, Preprocessing(**RECIPE), "memory", feature_name="fc_block", heads=changed
        ).fingerprint
        != fingerprint
    )
    changed.set_weights(head)


def test_heads_are_found_in_every_keras_form(run, tmp_path):
    feature_model = open_feature_model(run)
    save_keras(feature_model, tmp_path / "model.keras")
    for opened in (feature_model, open_feature_model(tmp_path / "model.keras")):
        assert opened.heads(np.zeros((1, 8), "float32"))["rotation_probabilities"].shape == (1, 4)
    headless = keras_feature_model(
        create_backbone("resnet8", (16, 16, 3), width=4), Preprocessing(**RECIPE), "memory"
    )
    assert headless.heads is None


class Elsewhere(FeatureModel):
    def _extract(self, images, names):
        raise NotImplementedError


def test_fingerprint_of_files_and_of_addresses(tmp_path):
    info = ModelInfo("net", Preprocessing(**RECIPE), {"features": (8,)})
    folder = tmp_path / "saved_model"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "data").write_bytes(b"weights")
    before = Elsewhere(info, str(folder)).fingerprint
    assert Elsewhere(info, str(folder)).fingerprint == before
    (folder / "variables" / "data").write_bytes(b"others!")
    assert Elsewhere(info, str(folder)).fingerprint != before
    address = Elsewhere(info, "grpc://host:1/net").fingerprint
    assert Elsewhere(info, "grpc://host:1/net").fingerprint == address
    assert Elsewhere(info, "grpc://host:2/net").fingerprint != address


def test_descriptions_from_before_exif_orientation(run, tmp_path):
    """They lack the field, and images were taken as they are stored; nothing else about them changes."""
    upright, stored = (Preprocessing(**RECIPE, exif_orientation=value) for value in (True, False))
    facts = ModelInfo("net", stored, {"features": (8,)}).to_json()
    assert "exif_orientation" not in facts
    assert ModelInfo.from_json(facts, "here").preprocessing == stored
    facts = ModelInfo("net", upright, {"features": (8,)}).to_json()
    assert ModelInfo.from_json(facts, "here").preprocessing == upright
    with pytest.raises(ValueError, match="its exif_orientation is 'yes'"):
        ModelInfo.from_json(facts.replace('"exif_orientation": true', '"exif_orientation": "yes"'), "here")
    assert open_feature_model(run).info.preprocessing.exif_orientation
    for file in ("backbone.keras", "config.json"):
        (tmp_path / file).write_bytes((run / file).read_bytes())
    config = json.loads((run / "config.json").read_text())
    for data in ({}, {"exif_orientation": False}):
        (tmp_path / "config.json").write_text(json.dumps(config | {"data": data}))
        assert not open_feature_model(tmp_path).info.preprocessing.exif_orientation


def test_a_backbone_in_mixed_precision_stays_so():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = resnet_cifar(8, (8, 8, 3), ["pool"], width=4)
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    before = np.asarray(keras.ops.cast(backbone(images)["pool"], "float32"))
    feature_model = keras_feature_model(backbone, Preprocessing(8, "resize"), "memory")
    found = feature_model(images, ["features"])["features"]
    assert {layer.dtype_policy.name for layer in backbone.layers} == {"mixed_bfloat16"}
    np.testing.assert_array_equal(np.asarray(keras.ops.cast(backbone(images)["pool"], "float32")), before)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - before).max() < 0.05 * np.abs(before).max()
