import json
import sys

import numpy as np
import pytest
import torch

import zoo
from tests.zoo.released import NARROW, alexnet_state, register_narrow, resnet_state, save_torch
from zoo.conversion import load_file
from zoo.downloader import sha256_of
from zoo.torch_checkpoint import read_state_dict

FEATURES = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc_block")


@pytest.fixture
def released(tmp_path):
    """A backbone's checkpoint in the released layout: legacy format, `module.` prefixes, no heads."""
    state = alexnet_state()
    save_torch(tmp_path / "released.pth.tar", state)
    register_narrow()
    return tmp_path / "released.pth.tar", state


@pytest.fixture
def with_heads(tmp_path):
    """A checkpoint that holds the heads as well."""
    state = alexnet_state(heads=True)
    save_torch(tmp_path / "whole.pth.tar", state)
    register_narrow()
    return tmp_path / "whole.pth.tar", state


class TorchAlexNet(torch.nn.Module):
    """The released network as PyTorch modules, with the released names."""

    def __init__(self, width=NARROW):
        super().__init__()

        def conv(inputs, outputs, kernel, stride, padding):
            return torch.nn.Sequential(
                torch.nn.Conv2d(inputs, outputs, kernel, stride, padding),
                torch.nn.BatchNorm2d(outputs),
                torch.nn.ReLU(),
            )

        def pool():
            return torch.nn.MaxPool2d(3, 2)

        dense = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(9216, width, bias=False),
            torch.nn.BatchNorm1d(width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, width, bias=False),
            torch.nn.BatchNorm1d(width),
            torch.nn.ReLU(),
        )
        blocks = [conv(3, 64, 11, 4, 2), pool(), conv(64, 192, 5, 1, 2), pool(), conv(192, 384, 3, 1, 1)]
        blocks += [conv(384, 256, 3, 1, 1), conv(256, 256, 3, 1, 1), pool(), dense]
        self._feature_blocks = torch.nn.ModuleList(blocks)

    def forward(self, x):
        features = []
        for block in self._feature_blocks:
            x = block(x)
            features.append(x)
        return dict(zip(FEATURES, features, strict=True))


def torch_features(state, images, width=NARROW):
    module = TorchAlexNet(width).eval()
    backbone = {k: torch.from_numpy(np.array(v)) for k, v in state.items() if k.startswith("_feature")}
    module.load_state_dict(backbone, strict=True)
    with torch.no_grad():
        features = module(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
    return {k: v.movedim(1, -1).numpy() if v.ndim == 4 else v.numpy() for k, v in features.items()}


def assert_same_features(actual, expected, tolerance=1e-4):
    assert list(actual) == list(expected)
    for name, value in actual.items():
        value = np.asarray(value)
        scale = max(1.0, np.abs(expected[name]).max())
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance * scale, err_msg=name)


def test_every_feature_is_pytorchs(released):
    path, state = released
    backbone = zoo.load("narrow", from_file=path)
    images = np.random.default_rng(5).standard_normal((3, 224, 224, 3)).astype("float32")
    assert_same_features(backbone(images, training=False), torch_features(state, images))


def test_heads(with_heads):
    path, state = with_heads
    model = zoo.load("narrow", from_file=path, heads=True)
    images = np.random.default_rng(5).standard_normal((2, 224, 224, 3)).astype("float32")
    outputs = {name: np.asarray(value) for name, value in model(images, training=False).items()}
    half = NARROW // 2
    rotation, invariant = outputs["fc_block"][:, :half], outputs["fc_block"][:, half:]
    logits = rotation @ state["fc_classifier.0.weight"].T + state["fc_classifier.0.bias"]
    projected = invariant @ state["norm.0.weight"].T + state["norm.0.bias"]
    np.testing.assert_allclose(outputs["rotation_logits"], logits, atol=1e-4)
    np.testing.assert_allclose(
        outputs["embedding"], projected / np.linalg.norm(projected, axis=1, keepdims=True), atol=1e-5
    )
    assert "rotation_logits" not in zoo.load("narrow", from_file=path).output


def test_heads_of_a_folded_network(with_heads, tmp_path):
    zoo.convert("narrow", with_heads[0], tmp_path / "a.keras", heads=True, fold=True)
    with pytest.raises(zoo.WeightError, match="Caffe form has no heads"):
        zoo.convert("narrow", with_heads[0], tmp_path / "a.caffemodel", heads=True, fold=True)
    zoo.convert("narrow", with_heads[0], tmp_path / "b.keras")
    with pytest.raises(zoo.ZooError, match="converted without its heads"):
        zoo.convert("narrow", tmp_path / "b.keras", tmp_path / "b.pth", heads=True)


def test_some_features(released):
    backbone = zoo.load("narrow", from_file=released[0], feature_names=["conv5", "pool2"])
    assert list(backbone.output) == ["conv5", "pool2"]


def test_load_downloads(released):
    register_narrow(links=(released[0].as_uri(),))
    assert zoo.load("narrow").name == "alexnet"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints(tmp_path, dtype):
    state = resnet_state()
    save_torch(tmp_path / "x.pth", state, dtype=dtype)
    model = zoo.load("cifar_resnet20", from_file=tmp_path / "x.pth")
    (kernel,) = model.get_layer("conv1_conv").get_weights()
    expected = torch.from_numpy(state["conv1.weight"]).to(dtype).float().numpy()
    np.testing.assert_array_equal(kernel, expected.transpose(2, 3, 1, 0))


def assert_states_equal(actual, expected):
    """Bit for bit. Where the source had no counters (before PyTorch 0.4.1) the copy's are zero."""
    added = actual.keys() - expected.keys()
    assert all(key.endswith("num_batches_tracked") and actual[key] == 0 for key in added)
    for key, array in expected.items():
        np.testing.assert_array_equal(actual[key], array, strict=True, err_msg=key)


def test_pytorch_keras_pytorch_is_bit_exact(with_heads, tmp_path):
    path, state = with_heads
    zoo.convert("narrow", path, tmp_path / "a.keras", heads=True)
    zoo.convert("narrow", tmp_path / "a.keras", tmp_path / "b.pth")
    zoo.convert("narrow", path, tmp_path / "c.pth", heads=True)
    assert state["_feature_blocks.0.1.num_batches_tracked"] == 7
    for name in ("b.pth", "c.pth"):
        assert_states_equal(read_state_dict(tmp_path / name), state)
    assert torch.load(tmp_path / "b.pth", weights_only=True)["network"].keys() == state.keys()
    with (tmp_path / "b.pth").open("rb") as file:
        assert file.read(4) == b"PK\x03\x04"


@pytest.mark.parametrize("norm", [True, False], ids=["with batch norm", "without"])
def test_pytorch_keras_caffe_keras_is_bit_exact(tmp_path, norm):
    state = alexnet_state(norm=norm)
    save_torch(tmp_path / "a.pth", state)
    architecture = "alexnet" if norm else "alexnet_no_bn"
    register_narrow("source", architecture)
    register_narrow("caffe", architecture, "caffemodel")
    zoo.convert("source", tmp_path / "a.pth", tmp_path / "a.keras")
    zoo.convert("source", tmp_path / "a.keras", tmp_path / "b.caffemodel")
    zoo.convert("caffe", tmp_path / "b.caffemodel", tmp_path / "c.keras")
    zoo.convert("source", tmp_path / "c.keras", tmp_path / "d.pth")
    counters = [key for key in state if key.endswith("num_batches_tracked")]  # Caffe has no place for them
    for key in counters:
        del state[key]
    assert_states_equal(read_state_dict(tmp_path / "d.pth"), state)


def test_resnet_round_trip_is_bit_exact(tmp_path):
    state = resnet_state()
    save_torch(tmp_path / "a.th", state, nest="state_dict")
    zoo.convert("cifar_resnet20", tmp_path / "a.th", tmp_path / "a.keras", heads=True)
    zoo.convert("cifar_resnet20", tmp_path / "a.keras", tmp_path / "b.pth")
    assert_states_equal(read_state_dict(tmp_path / "b.pth"), state)
    with pytest.raises(zoo.WeightError, match="resnet20 has no caffe form"):
        zoo.convert("cifar_resnet20", tmp_path / "a.keras", tmp_path / "b.caffemodel")


def test_other_numbers_of_classes(tmp_path):
    save_torch(tmp_path / "a.th", resnet_state(classes=100))
    register_narrow("hundred", "resnet20", options=(("classes", 100),))
    model = zoo.load("hundred", from_file=tmp_path / "a.th", heads=True)
    assert model.output["logits"].shape == (None, 100)


def test_report(with_heads, tmp_path):
    path, _ = with_heads
    report = zoo.convert("narrow", path, tmp_path / "out" / "a.keras")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.keras", "a.keras.json"}
    written = json.loads((tmp_path / "out" / "a.keras.json").read_text())
    assert written["source_sha256"] == sha256_of(path)
    assert written["source_file"] == "whole.pth.tar"
    assert (written["entry"], written["architecture"]) == ("narrow", "alexnet")
    assert written["compared_with"].startswith("PyTorch 2")
    assert set(written["versions"]) >= {"python", "keras", "tensorflow", "numpy", "torch"}
    assert written["date"].startswith("20")
    assert set(written["differences"]) == set(FEATURES)
    assert all(d["max_abs_difference"] < 1e-4 * d["max_abs_value"] for d in written["differences"].values())
    assert sorted(written["left_out"]) == [
        "fc_classifier.0.bias",
        "fc_classifier.0.weight",
        "norm.0.bias",
        "norm.0.weight",
    ]
    assert report.lines()[-1].startswith("  left out: fc_classifier.0.weight, ")
    assert len(report.lines()) == 2 + len(FEATURES)


def test_above_the_tolerance_nothing_is_written(released, tmp_path):
    with pytest.raises(zoo.VerificationError, match=r"by more than 1e-12: conv1 by .*, fc_block by"):
        zoo.convert("narrow", released[0], tmp_path / "out" / "a.keras", tolerance=1e-12)
    assert not (tmp_path / "out").exists()


def test_a_failed_export_leaves_an_older_file_alone(released, tmp_path):
    (tmp_path / "b.pth").write_text("older")
    with pytest.raises(zoo.VerificationError):
        zoo.convert("narrow", released[0], tmp_path / "b.pth", tolerance=1e-12)
    assert (tmp_path / "b.pth").read_text() == "older"
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_fold_on_the_way(released, tmp_path):
    path, state = released
    zoo.convert("narrow", path, tmp_path / "a.caffemodel", fold=True)
    register_narrow("voc", "alexnet_no_bn", "caffemodel")
    backbone = zoo.load("voc", from_file=tmp_path / "a.caffemodel")
    images = np.random.default_rng(5).standard_normal((2, 224, 224, 3)).astype("float32")
    assert_same_features(backbone(images, training=False), torch_features(state, images))


@pytest.mark.parametrize(
    ("name", "file", "out", "message"),
    [
        ("nobody", "released.pth.tar", "a.keras", "no entry 'nobody'"),
        ("narrow", "missing.pth", "a.keras", "there is no such file"),
        ("narrow", "missing.keras", "a.pth", "there is no such file"),
        ("narrow", "released.pth.tar", "a.onnx", "unknown ending"),
        ("narrow", "released.pth.tar", "a.caffemodel.h5", "this ending is read, but not written"),
        ("cifar_resnet20", "released.pth.tar", "a.keras", "The file lacks"),
        ("rfd_rotation_probabilities_imagenet", "released.pth.tar", "a.keras", "is data and no network"),
        (
            "rfd_alexnet_voc",
            "released.pth.tar",
            "a.keras",
            "was read as a PyTorch checkpoint, but rfd_alexnet_voc is rel",
        ),
        ("rfd_alexnet_imagenet", "released.pth.tar", "a.keras", r"has shape \(32, 9216\), the network needs"),
    ],
)
def test_what_cannot_be_converted(released, tmp_path, name, file, out, message):
    with pytest.raises(zoo.ZooError, match=message):
        zoo.convert(name, tmp_path / file, tmp_path / out)
    assert {path.name for path in tmp_path.iterdir()} == {"released.pth.tar"}


def test_a_keras_file_of_another_network(tmp_path, released):
    save_torch(tmp_path / "r.th", resnet_state())
    zoo.convert("cifar_resnet20", tmp_path / "r.th", tmp_path / "r.keras")
    with pytest.raises(zoo.ZooError, match="holds resnet20, but narrow is alexnet"):
        zoo.convert("narrow", tmp_path / "r.keras", tmp_path / "x.pth")
    (tmp_path / "bad.keras").write_bytes(b"PK not really")
    with pytest.raises(zoo.FormatError, match=r"bad\.keras: is not a .keras archive"):
        zoo.convert("narrow", tmp_path / "bad.keras", tmp_path / "x.pth")


def test_data_is_no_network():
    with pytest.raises(zoo.ZooError, match="is data and no network"):
        zoo.load("rfd_rotation_probabilities_imagenet")


def test_without_pytorch_numpy_verifies(with_heads, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    _, report = load_file(zoo.info("narrow"), with_heads[0], heads=True)
    assert report.compared_with.startswith("NumPy")
