"""The two independent forward passes agree, and verification catches what a wrong map would do."""

import numpy as np
import pytest

import zoo
from rfd_tf.models.parity import ParityError, compare
from tests.zoo.released import alexnet_state, register_narrow, resnet_state, save_torch
from zoo import weight_maps
from zoo.conversion import verify_file
from zoo.verification import reference_features, reference_ops


@pytest.mark.parametrize(
    ("architecture", "state", "size"),
    [
        ("alexnet", alexnet_state(heads=True), 224),
        ("alexnet_no_bn", alexnet_state(norm=False), 224),
        ("resnet20", resnet_state(), 32),
    ],
)
def test_numpy_and_pytorch_agree(architecture, state, size):
    images = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype("float32")
    passes = [
        reference_features(architecture, "torch", state, images, reference_ops(backend))
        for backend in ("numpy", "torch")
    ]
    assert passes[0].keys() == passes[1].keys()
    compare(passes[0], passes[1], 2e-5)


@pytest.mark.parametrize(
    "swap", [("weight", "bias"), ("bias", "running_mean"), ("weight", "running_var")], ids="-".join
)
def test_a_wrong_map_is_caught(tmp_path, monkeypatch, swap):
    save_torch(tmp_path / "x.th", resnet_state())
    exchanged = {swap[0]: swap[1], swap[1]: swap[0]}
    wrong = {part: exchanged.get(key, key) for part, key in weight_maps._TORCH_NORM.items()}
    monkeypatch.setattr(weight_maps, "_TORCH_NORM", wrong)
    with pytest.raises(zoo.VerificationError, match="conv1 by"):
        zoo.load("cifar_resnet20", from_file=tmp_path / "x.th")


def test_nan_is_never_within_the_tolerance():
    values = np.array([1.0, np.nan])
    for actual, expected in ((values, np.ones(2)), (np.ones(2), values), (values, values)):
        with pytest.raises(ParityError):
            compare({"x": actual}, {"x": expected})


def test_compare_is_strict():
    with pytest.raises(ParityError, match="nothing to compare the output 'y' with"):
        compare({"y": np.ones(2)}, {"x": np.ones(2)})
    with pytest.raises(ParityError, match="'x' has shape"):
        compare({"x": np.ones(2)}, {"x": np.ones(3)})
    (difference,) = compare({"x": np.full(2, 1000.05)}, {"x": np.full(2, 1000.0)}).values()
    assert difference.max_abs_difference == pytest.approx(0.05)


def test_a_converted_file_is_compared_with_its_source_again(tmp_path):
    save_torch(tmp_path / "a.pth", alexnet_state(heads=True))
    save_torch(tmp_path / "b.pth", alexnet_state(seed=1))
    entry = register_narrow()
    zoo.convert("narrow", tmp_path / "a.pth", tmp_path / "a.keras")
    report = verify_file(entry, tmp_path / "a.pth", tmp_path / "a.keras")
    assert report.entry == "narrow"
    assert "left out" not in "\n".join(report.lines())
    with pytest.raises(zoo.VerificationError):
        verify_file(entry, tmp_path / "b.pth", tmp_path / "a.keras")
