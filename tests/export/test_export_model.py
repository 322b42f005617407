"""Whole exports: what stands in the folder, and what does not."""

import json
import os

import keras
import numpy as np
import onnx
import pytest

from rfd_tf.exporting import export_model as module
from rfd_tf.exporting.export_model import ExportOptions, export_model
from rfd_tf.exporting.parity import ParityError
from rfd_tf.exporting.writers import write_saved_model
from rfd_tf.features import open_feature_model
from tests.export.models import encode, image, normalized, small_network, write_run

IMAGES = [(f"{size}.jpg", encode(image(size, 40))) for size in (30, 40, 90)]
ONLY_KERAS = ExportOptions(formats=("keras",))


@pytest.fixture(scope="module")
def feature_model(tmp_path_factory):
    return open_feature_model(write_run(tmp_path_factory.mktemp("run")), ["block1"])


@pytest.fixture(scope="module")
def small():
    return small_network()


@pytest.fixture(scope="module")
def exported(feature_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "net"
    options = ExportOptions(onnx_precisions=("float32", "float16", "int8"), fold_batch_norm=True)
    return out, export_model(feature_model, out, options)


def listing(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_everything_is_there(exported):
    out, _ = exported
    assert {path.name for path in out.iterdir()} == {
        "saved_model",
        "model.onnx",
        "model.float16.onnx",
        "model.int8.onnx",
        "model.keras",
        "parity.json",
    }
    assert [path.name for path in out.parent.iterdir()] == ["net"]  # nothing is left beside it


def test_report(exported, feature_model):
    out, parities = exported
    report = json.loads((out / "parity.json").read_text())
    assert report["model"] == "resnet8"
    entry = report["versions"]["1"]
    assert len(entry["pictures"]) == 16
    assert all("china" in name or "flower" in name for name in entry["pictures"])
    forms = {"saved_model", "saved_model jpeg", "onnx float32", "onnx float16", "onnx int8", "keras"}
    assert set(entry["forms"]) == forms
    for form, figures in entry["forms"].items():
        assert set(figures["outputs"]) == set(feature_model.info.outputs)
        if figures["limit"]["difference" if form != "onnx int8" else "cosine"] == 1e-4:
            assert all(
                f["max_difference"] <= 1e-4 * max(1, f["max_value"]) for f in figures["outputs"].values()
            )
    assert len(parities) == len(forms) * len(feature_model.info.outputs)
    assert {"tensorflow", "keras", "onnxruntime"} <= set(entry["packages"])


@pytest.mark.parametrize("name", ["", "saved_model/1", "model.onnx", "model.keras"])
def test_every_form_opens_and_agrees(exported, feature_model, name):
    images = normalized(feature_model)
    opened = open_feature_model(exported[0] / name, ["block1"])
    assert opened.info == feature_model.info
    for output, values in feature_model(images).items():
        np.testing.assert_allclose(opened(images)[output], values, atol=1e-4, err_msg=output)


def test_keras_file_can_be_fine_tuned(small, tmp_path):
    export_model(small, tmp_path / "net", ONLY_KERAS, IMAGES)
    model = keras.saving.load_model(tmp_path / "net" / "model.keras")
    images = normalized(small)
    before = np.asarray(model(images, training=False)["features"])
    probe = keras.Model(model.inputs, keras.layers.Dense(2)(model.output["features"]))
    probe.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    probe.fit(images, np.array([0, 1, 0]), verbose=0)
    assert not np.allclose(before, model(images, training=False)["features"], atol=1e-4)


def test_sabotaged_files_are_not_left(small, tmp_path, monkeypatch):
    """The writers write another network: refused by form and output, in a new folder and in a used one."""

    def sabotaged(write):
        def wrong(served, *arguments):
            layer = served.model.get_layer("conv1_conv")
            kernel = layer.get_weights()
            layer.set_weights([values * 1.01 for values in kernel])
            try:
                return write(served, *arguments)
            finally:
                layer.set_weights(kernel)

        return wrong

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_saved_model", sabotaged(write_saved_model))
        with pytest.raises(ParityError, match=r"saved_model: features by [\d.e-]+ of .*; saved_model jpeg: "):
            export_model(small, tmp_path / "new", ExportOptions(formats=("saved_model",)), IMAGES)
    assert list(tmp_path.iterdir()) == []
    export_model(small, tmp_path / "used", ONLY_KERAS, IMAGES)
    before = {path: (tmp_path / "used" / path).read_bytes() for path in listing(tmp_path / "used")}
    options = ExportOptions(formats=("keras", "onnx"), version=2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "onnx_model", sabotaged(module.onnx_model))
        with pytest.raises(ParityError, match="onnx float32: "):
            export_model(small, tmp_path / "used", options, IMAGES)
    assert {path: (tmp_path / "used" / path).read_bytes() for path in listing(tmp_path / "used")} == before
    assert os.listdir(tmp_path) == ["used"]


def test_nan_is_a_failure(small, tmp_path, monkeypatch):
    def broken(feature_model, path):
        original(feature_model, path)
        model = keras.saving.load_model(path)
        weights = model.get_weights()
        model.set_weights([np.full_like(weights[0], np.nan), *weights[1:]])
        feature_model = type(feature_model)(model, feature_model.info, feature_model.location)
        original(feature_model, path)

    original = module.save_keras
    monkeypatch.setattr(module, "save_keras", broken)
    with pytest.raises(ParityError, match="keras: features by nan"):
        export_model(small, tmp_path / "new", ONLY_KERAS, IMAGES)
    assert list(tmp_path.iterdir()) == []


def test_versions(small, tmp_path):
    out = tmp_path / "net"
    saved_model = ExportOptions(formats=("saved_model",))
    export_model(small, out, saved_model, IMAGES)
    first = (out / "saved_model" / "1" / "saved_model.pb").stat()
    with pytest.raises(
        FileExistsError, match="holds version 1: give --version=N of a new one, or --overwrite"
    ):
        export_model(small, out, ONLY_KERAS, IMAGES)
    export_model(small, out, ExportOptions(formats=("keras",), version=3), IMAGES)
    assert (out / "saved_model" / "1" / "saved_model.pb").stat() == first
    assert list(json.loads((out / "parity.json").read_text())["versions"]) == ["1", "3"]
    export_model(small, out, ExportOptions(formats=("saved_model",), overwrite=True), IMAGES)
    assert (out / "saved_model" / "1" / "saved_model.pb").stat().st_ino != first.st_ino
    assert {path.name for path in out.iterdir()} == {"saved_model", "model.keras", "parity.json"}
    assert [path.name for path in (out / "saved_model").iterdir()] == ["1"]


def test_folders_of_something_else(small, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes holds 'a\.txt' and no parity\.json"):
        export_model(small, tmp_path / "notes", ONLY_KERAS, IMAGES)
    (tmp_path / "other").mkdir()
    report = {"format": 1, "model": "alexnet", "versions": {}}
    (tmp_path / "other" / "parity.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="is an export of 'alexnet', not of 'small'"):
        export_model(small, tmp_path / "other", ONLY_KERAS, IMAGES)
    (tmp_path / "other" / "parity.json").write_text("[]")
    with pytest.raises(ValueError, match=r"parity\.json is not the report of an export"):
        export_model(small, tmp_path / "other", ONLY_KERAS, IMAGES)
    with pytest.raises(ValueError, match="is not a folder"):
        export_model(small, tmp_path / "notes" / "a.txt", ONLY_KERAS, IMAGES)
    with pytest.raises(ValueError, match="`examples` is empty"):
        export_model(small, tmp_path / "new", ONLY_KERAS, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ("tflite",)}, "`formats`"),
        ({"formats": ()}, "`formats`"),
        ({"onnx_precisions": ("int4",)}, "`onnx_precisions`"),
        ({"input": "float"}, "`input`"),
        ({"version": 0}, "version=0"),
        ({"serving": True, "formats": ("onnx",)}, "`serving`"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**options)


def test_onnx_folder_without_saved_model(exported, feature_model, tmp_path):
    """The forms of a folder by preference: SavedModel, Keras, ONNX."""
    for name in ("model.onnx", "model.keras"):
        (tmp_path / name).write_bytes((exported[0] / name).read_bytes())
        assert open_feature_model(tmp_path).location == str(tmp_path / name)
    assert onnx.load(tmp_path / "model.onnx").graph.name == "resnet8"
