"""ONNX files, run by ONNX Runtime alone."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest

import zoo
from rfd_tf.data import Preprocessing
from rfd_tf.exporting.writers import OPSET, onnx_model, write_onnx
from rfd_tf.features import KerasFeatureModel, ModelInfo, keras_feature_model, open_feature_model
from rfd_tf.features.open_feature_model import open_onnx
from tests.export.models import (
    RECIPE,
    normalized,
    small_backbone,
    small_network,
    tiny_alexnet,
    tiny_resnet,
    write_run,
)

NETWORKS = {"resnet": tiny_resnet, "alexnet": tiny_alexnet}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    feature_model = NETWORKS[request.param]()
    return feature_model, onnx_model(feature_model)


def run(model, images) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": images}), strict=True))


def shapes(values) -> list[list]:
    return [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in values]


@pytest.mark.parametrize("count", [1, 5])
def test_same_outputs(network, count):
    feature_model, model = network
    images = normalized(feature_model, count)
    found = run(model, images)
    for name, values in feature_model(images).items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, err_msg=name)


def test_names_shapes_and_facts(network):
    feature_model, model = network
    assert [node.name for node in model.graph.input] == ["image"]
    assert [node.name for node in model.graph.output] == list(feature_model.info.outputs)
    assert shapes(model.graph.input) == [["batch", *feature_model.info.image_shape]]
    assert shapes(model.graph.output) == [["batch", *shape] for shape in feature_model.info.outputs.values()]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert ModelInfo.from_json(facts["rfd_tf_model"], "here") == feature_model.info
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == OPSET
    onnx.checker.check_model(model)


@pytest.mark.parametrize(("precision", "cosine"), [("float16", 0.9995), ("int8", 0.95)])
def test_other_precisions_run(network, precision, cosine, tmp_path):
    feature_model, model = network
    write_onnx(model, tmp_path / "whole.onnx")
    write_onnx(model, tmp_path / "small.onnx", precision)
    share = (tmp_path / "small.onnx").stat().st_size / (tmp_path / "whole.onnx").stat().st_size
    assert share < 0.8
    opened = open_onnx(tmp_path / "small.onnx", threads=1)
    assert opened.info == dataclasses.replace(feature_model.info, precision=precision)
    images = normalized(feature_model)
    found, expected = opened(images)["features"], feature_model(images)["features"]
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / norms).min() > cosine
    assert not np.array_equal(found, expected)  # or it was not in that precision
    with pytest.raises(ValueError, match="'float8'"):
        write_onnx(model, tmp_path / "other.onnx", "float8")


def test_folded_batch_norm(network):
    """AlexNet's batch norms leave multiplications behind, which folding takes away; the outputs stay."""
    feature_model, model = network
    folded = onnx_model(
        KerasFeatureModel(zoo.fold_batch_norm(feature_model.model), feature_model.info, "memory")
    )
    kinds = [node.op_type for node in folded.graph.node]
    assert not {"Mul", "BatchNormalization"} & set(kinds)
    assert len(kinds) <= len(model.graph.node)
    images = normalized(feature_model)
    for name, values in feature_model(images).items():
        np.testing.assert_allclose(run(folded, images)[name], values, atol=1e-4, err_msg=name)


def test_uint8_input(tmp_path):
    feature_model = small_network()
    info = dataclasses.replace(feature_model.info, input="uint8")
    write_onnx(onnx_model(KerasFeatureModel(feature_model.model, info, "memory")), tmp_path / "model.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (3, 16, 16, 3)).astype("uint8")
    expected = feature_model(feature_model.info.normalize(pixels))["features"]
    np.testing.assert_allclose(
        run(onnx.load(tmp_path / "model.onnx"), pixels)["features"], expected, atol=1e-4
    )
    opened = open_feature_model(tmp_path / "model.onnx")  # takes normalised images like every feature model
    np.testing.assert_allclose(opened(feature_model.info.normalize(pixels))["features"], expected, atol=1e-4)


def test_heads_and_opening(tmp_path, monkeypatch):
    feature_model = open_feature_model(write_run(tmp_path / "run", backbone=small_backbone()), ["conv1"])
    write_onnx(onnx_model(feature_model), tmp_path / "model.onnx")
    images = normalized(feature_model)
    opened = open_feature_model(tmp_path / "model.onnx", ["conv1"])
    for name, values in opened(images, ["rotation_probabilities", "embedding", "conv1"]).items():
        np.testing.assert_allclose(values, feature_model(images)[name], atol=1e-4, err_msg=name)
    with pytest.raises(ValueError, match="no feature map 'conv9'; it has: conv1"):
        open_feature_model(tmp_path / "model.onnx", ["conv9"])
    monkeypatch.setenv("RFD_TF_ONNX_THREADS", "many")
    with pytest.raises(ValueError, match="RFD_TF_ONNX_THREADS=many"):
        open_feature_model(tmp_path / "model.onnx")
    monkeypatch.setenv("RFD_TF_ONNX_THREADS", "1")
    assert open_feature_model(tmp_path / "model.onnx")(images)["features"].shape == (3, 6)


def test_files_that_are_none_of_ours(tmp_path, network):
    feature_model, model = network
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.onnx: ONNX Runtime cannot read it"):
        open_feature_model(tmp_path / "bad.onnx")
    stranger = onnx.ModelProto()
    stranger.CopyFrom(model)
    del stranger.metadata_props[:]
    onnx.save_model(stranger, tmp_path / "stranger.onnx")
    with pytest.raises(ValueError, match=r"stranger\.onnx has no metadata 'rfd_tf_model'"):
        open_feature_model(tmp_path / "stranger.onnx")
    info = dataclasses.replace(feature_model.info, outputs={**feature_model.info.outputs, "more": (3,)})
    onnx.helper.set_model_props(stranger, {"rfd_tf_model": info.to_json()})
    onnx.save_model(stranger, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="its inputs and outputs are not those"):
        open_feature_model(tmp_path / "other.onnx")


def test_mixed_precision_is_exported_in_float32():
    backbone, preprocessing = small_backbone(), Preprocessing(**RECIPE)
    images = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype("float32")
    expected = np.asarray(backbone(images, training=False)["pool"])
    for layer in backbone.layers:
        layer.dtype_policy = "mixed_bfloat16"
    feature_model = keras_feature_model(backbone, preprocessing, "memory", feature_maps=[])
    np.testing.assert_allclose(run(onnx_model(feature_model), images)["features"], expected, atol=1e-4)
