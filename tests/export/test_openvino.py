"""OpenVINO: its own files and our ONNX files, in float32 and bfloat16, batch after batch."""

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openvino
import pytest
import tensorflow as tf

from rfd_tf import cli
from rfd_tf.cli.models import open_model
from rfd_tf.exporting.export_model import ExportOptions, export_model
from rfd_tf.exporting.parity import LIMITS
from rfd_tf.exporting.writers import write_openvino
from rfd_tf.features import KerasFeatureModel, load_features, open_feature_model
from rfd_tf.features.openvino_feature_model import OpenVinoFeatureModel, openvino_copy
from tests.export.models import encode, image, normalized, small_backbone, small_network, write_run


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """Of all forms but SavedModel, in float32."""
    out = tmp_path_factory.mktemp("export") / "net"
    formats = ("onnx", "keras", "openvino")
    export_model(network, out, ExportOptions(formats=formats, precision="int8"))
    return out


def within(precision, found, expected):
    """A generous bound of rounding in each precision."""
    scale = max(1.0, np.abs(expected).max())
    return np.abs(found - expected).max() <= scale * {"float32": 1e-5, "bfloat16": 3e-2}[precision]


@pytest.mark.parametrize("file", ["openvino/model.xml", "model.onnx"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_outputs(network, exported, file, precision):
    opened = open_feature_model(exported / file, precision=precision, fastest=True)
    assert isinstance(opened, OpenVinoFeatureModel)
    assert opened.info == dataclasses.replace(network.info, precision=precision)
    assert opened.runtime.startswith("OpenVINO 20")
    for count in (1, 5):  # any size of batch
        images = normalized(network, count)
        for name, expected in network(images).items():
            found = opened(images, [name])[name]
            assert found.dtype == np.float32
            assert within(precision, found, expected), name
    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    exact = np.array_equal(opened(images)["features"], opened.in_precision("float32")(images)["features"])
    assert exact == (precision == "float32" or not native)


def test_float32_is_the_default_whatever_the_processor_has(exported):
    """OpenVINO's own default is bfloat16 where there is some."""
    images = normalized(small_network())
    opened, onnx = open_feature_model(exported / "openvino" / "model.xml"), exported / "model.onnx"
    assert within("float32", opened(images)["features"], open_feature_model(onnx)(images)["features"])


def test_uint8_input(tmp_path):
    network = small_network()
    info = dataclasses.replace(network.info, input="uint8")
    write_openvino(KerasFeatureModel(network.model, info, "memory"), tmp_path / "model.xml")
    pixels = np.random.default_rng(2).integers(0, 256, (3, 16, 16, 3)).astype("uint8")
    images = network.info.normalize(pixels)
    opened = open_feature_model(tmp_path / "model.xml")
    assert within("float32", opened(images)["features"], network(images)["features"])
    ((_, found),) = opened.in_order([(0, images)], ["features"])
    assert within("float32", found["features"], network(images)["features"])


def test_batches_come_back_in_order(exported):
    """More batches than are computed at once, of several sizes, empty ones among them."""
    opened = open_feature_model(exported / "openvino" / "model.xml")
    images = normalized(opened, 9)
    sizes = [2, 0, 3, 0, 0, 1, 3, 0]
    ends = np.cumsum(sizes)
    batches = [(end, images[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    found = list(opened.in_order(iter(batches), ["conv1", "features"]))
    assert [tag for tag, _ in found] == ends.tolist()
    assert [len(outputs) for _, outputs in found] == [2 if size else 0 for size in sizes]
    for name in ("conv1", "features"):
        parts = [outputs[name] for _, outputs in found if outputs]
        np.testing.assert_allclose(np.concatenate(parts), opened(images)[name], atol=1e-6)
    with pytest.raises(ValueError, match="must be finite"):
        list(opened.in_order([(0, images * np.nan)], ["conv1"]))
    with pytest.raises(ValueError, match="no output 'other'"):
        list(opened.in_order([], ["other"]))


def test_threads_do_not_disturb_each_other(exported):
    opened = open_feature_model(exported / "openvino" / "model.xml")
    batches = list(normalized(opened, 24).reshape(12, 2, 16, 16, 3))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(opened, batches))
    for images, outputs in zip(batches, found, strict=True):
        np.testing.assert_array_equal(outputs["features"], opened(images)["features"])


def test_fingerprint_tells_weights_and_precision(network, exported):
    opened = open_feature_model(exported / "openvino" / "model.xml")
    again = open_feature_model(exported / "openvino" / "model.xml")
    assert opened.fingerprint == again.fingerprint
    assert opened.fingerprint != opened.in_precision("bfloat16").fingerprint
    other = small_network()
    other.model.layers[1].set_weights([value + 1 for value in other.model.layers[1].get_weights()])
    assert openvino_copy(network).fingerprint != openvino_copy(other).fingerprint


def test_export_with_parity_in_the_precision(network, tmp_path):
    out = tmp_path / "net"
    formats = ("openvino", "saved_model", "keras")
    parities = export_model(network, out, ExportOptions(formats=formats, precision="bfloat16"))
    assert {(parity.form, parity.precision) for parity in parities} == {
        ("openvino", "bfloat16"),
        ("saved_model", "bfloat16"),
        ("saved_model jpeg", "bfloat16"),
        ("keras", "float32"),
    }
    entry = json.loads((out / "parity.json").read_text())["versions"]["1"]
    assert entry["precision"] == "bfloat16"
    assert entry["forms"]["openvino"]["limit"] == dataclasses.asdict(LIMITS["bfloat16"])
    assert entry["packages"]["openvino"]
    images = normalized(network)
    for path in ("openvino/model.xml", "saved_model", ""):
        opened = open_feature_model(out / path)
        assert opened.info.precision == "bfloat16"
        found, expected = opened(images)["features"], network(images)["features"]
        assert within("bfloat16", found, expected)
        assert not np.array_equal(found, expected)
    with pytest.raises(ValueError, match="computes in bfloat16 with TensorFlow"):
        open_feature_model(out / "saved_model", precision="float32")
    kinds = {variable.dtype.name for variable in tf.saved_model.load(out / "saved_model" / "1").weights}
    assert kinds == {"bfloat16", "float32"}  # of convolutions, and of batch norms


def test_int8_is_close_and_smaller(network, exported):
    """Static quantisation, calibrated on the images that are compared."""
    opened = open_feature_model(exported / "openvino" / "model.int8.xml")
    assert opened.info == dataclasses.replace(network.info, precision="int8")
    images = normalized(network)
    found, expected = opened(images)["features"], network(images)["features"]
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / norms).min() > 0.97
    assert not within("float32", found, expected)  # or it was not in that precision
    sizes = [(exported / "openvino" / name).stat().st_size for name in ("model.int8.bin", "model.bin")]
    assert sizes[0] < sizes[1]
    for options in ({}, {"formats": ("openvino", "saved_model")}):
        with pytest.raises(ValueError, match="int8 is for the format openvino, without saved_model"):
            ExportOptions(precision="int8", **options)


def test_fastest_form_of_an_export(exported, tmp_path, monkeypatch):
    """OpenVINO's where it is installed; an older version's files are not taken."""

    def opened(out, precision=None):
        found = open_model(str(out), precision=precision, fastest=True)
        return found.runtime.split()[0], found.info.precision, found.location.removeprefix(f"{out}/")

    assert opened(exported) == ("OpenVINO", "float32", "openvino/model.xml")
    assert opened(exported, "bfloat16") == ("OpenVINO", "bfloat16", "openvino/model.xml")
    assert opened(exported, "int8") == ("OpenVINO", "int8", "openvino/model.int8.xml")
    with pytest.raises(ValueError, match=r"computes in float32.*'int8'"):
        opened(exported / "model.keras", "int8")
    report = json.loads((exported / "parity.json").read_text())
    forms = report["versions"]["1"]["forms"]
    for name in ("parity.json", "model.onnx", "model.keras"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    report["versions"]["12"] = {"forms": {"keras": forms["keras"]}}  # newer than 2, and ONNX is not of it
    report["versions"]["2"] = {"forms": forms}
    (tmp_path / "parity.json").write_text(json.dumps(report))
    assert opened(tmp_path) == ("Keras", "float32", "model.keras")
    assert opened(tmp_path, "bfloat16")[:2] == ("OpenVINO", "bfloat16")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert opened(tmp_path, "bfloat16")[:2] == ("Keras", "bfloat16")
    assert opened(exported) == ("ONNX", "float32", "model.onnx")


def unknown_operation(*_):
    raise RuntimeError("Exception from core.cpp:84:\nNo conversion rule\n\n")


def test_keras_models_in_bfloat16_keep_the_promise(network, tmp_path, monkeypatch):
    run = str(write_run(tmp_path / "run", backbone=small_backbone()))
    exact, opened = open_model(run), open_model(run, precision="bfloat16")
    assert isinstance(opened, OpenVinoFeatureModel)
    images = normalized(exact)
    for name, expected in exact(images).items():
        assert within("bfloat16", opened(images)[name], expected), name
    with monkeypatch.context() as patch:
        patch.setattr(openvino.Core, "read_model", unknown_operation)
        assert open_model(run, precision="bfloat16").runtime == "Keras on tensorflow"
        with pytest.raises(ValueError, match=r"run.*: OpenVINO cannot read it \(No conversion rule\)"):
            openvino_copy(exact)
    monkeypatch.setitem(LIMITS, "bfloat16", dataclasses.replace(LIMITS["bfloat16"], difference=1e-9))
    with pytest.raises(ValueError, match=r"OpenVINO .* in bfloat16: features by"):
        open_model(run, precision="bfloat16")


def test_extraction_takes_the_fastest_and_keeps_the_order(exported, tmp_path, capsys):
    """Of an export, with bad images in between; in bfloat16 it is another extraction."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(11):
        content = encode(image(30 + number))
        (images / f"{number:02}.jpg").write_bytes(content[:200] if number in (0, 5, 6) else content)
    flags = [
        f"--images={images}",
        "--format=npz",
        "--shard_size=7",
        "--batch_size=2",
        "--outputs=features,conv1",
    ]
    found = {}
    for name, model, more in (
        ("keras", exported / "model.keras", []),
        ("fastest", exported, []),
        ("bfloat16", exported, ["--precision=bfloat16"]),
    ):
        arguments = [f"--model={model}", f"--out={tmp_path / name}", *flags, *more]
        assert cli.main(["rfd", "extract", *arguments]) == 0
        told = capsys.readouterr().out.splitlines()[0]
        assert told.startswith("Computed by Keras" if name == "keras" else "Computed by OpenVINO")
        assert f" in {'bfloat16' if more else 'float32'}: {exported}" in told
        found[name] = load_features(tmp_path / name)
    outputs, index, paths, _ = found["keras"]
    assert index.tolist() == [1, 2, 3, 4, 7, 8, 9, 10]
    for name, precision in (("fastest", "float32"), ("bfloat16", "bfloat16")):
        assert found[name][1].tolist() == index.tolist()
        assert found[name][2] == paths
        for output, expected in outputs.items():
            assert within(precision, found[name][0][output], expected)
    assert cli.main(["rfd", "extract", f"--model={exported}", f"--out={tmp_path / 'bfloat16'}", *flags]) == 1
    assert "precision" in capsys.readouterr().err


def test_without_the_package(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"model\.xml: needs OpenVINO \(pip install 'rfd_tf\[openvino\]'\)"):
        open_feature_model(exported / "openvino" / "model.xml")
    flags = [f"--model={exported}/model.keras", f"--out={tmp_path / 'out'}", "--formats=openvino"]
    assert cli.main(["rfd", "export", *flags]) == 1
    assert "needs OpenVINO (pip install 'rfd_tf[openvino]')" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_none_of_ours(exported, tmp_path):
    (tmp_path / "bad.xml").write_text("<net")
    with pytest.raises(ValueError, match=r"bad\.xml: OpenVINO cannot read it"):
        open_feature_model(tmp_path / "bad.xml")
    text = (exported / "openvino" / "model.xml").read_text()
    (tmp_path / "alone.xml").write_text(text)
    with pytest.raises(ValueError, match=r"alone\.xml: OpenVINO cannot read it .*bin file cannot be found"):
        open_feature_model(tmp_path / "alone.xml")
    model = openvino.Core().read_model(exported / "openvino" / "model.xml")
    model.set_rt_info("{}", "rfd_tf_model")
    openvino.save_model(model, tmp_path / "facts.xml")
    with pytest.raises(ValueError, match="no valid description"):
        open_feature_model(tmp_path / "facts.xml")
    with pytest.raises(FileNotFoundError, match="No model at"):
        open_feature_model(tmp_path / "none.xml")
    with pytest.raises(ValueError, match=r"`precision` must be one of .*'float8'"):
        open_feature_model(tmp_path / "none.xml", precision="float8")
    with pytest.raises(ValueError, match=r"computes in float32\. Received: precision='int8'"):
        open_feature_model(exported / "openvino" / "model.xml", precision="int8")


OUTLIVING = """
import gc, os, signal, sys
import numpy as np
from rfd_tf.features import open_feature_model

handled = []
signal.signal(signal.SIGTERM, lambda *_: handled.append(True))
opened = open_feature_model(sys.argv[1], precision="float32", fastest=True)
opened(np.zeros((2, *opened.info.image_shape), "float32"))
del opened
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
assert handled
print("alive")
"""


def test_a_process_outlives_its_models(exported):
    """It died at the next signal where OpenVINO's plugins were unloaded with the last model."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-c",
        OUTLIVING,
        str(exported / "openvino" / "model.xml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "alive\n", (done.returncode, done.stderr)
