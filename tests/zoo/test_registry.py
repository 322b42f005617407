import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo

ROOT = Path(__file__).parents[2]


def test_the_promised_entries_are_there():
    assert {
        "rfd_alexnet_imagenet",
        "rfd_alexnet_voc",
        "rfd_rotation_probabilities_imagenet",
        "cifar_resnet20",
        "cifar_resnet32",
        "cifar_resnet44",
        "cifar_resnet56",
        "cifar_resnet110",
    } <= set(zoo.list())


@pytest.mark.parametrize("name", zoo.list())
def test_every_entry_has_a_card_with_licence_and_citation(name):
    entry, card = zoo.info(name), zoo.model_card(name)
    assert card.startswith(f"# {name}\n")
    for text in (entry.licence, entry.citation, *entry.links):
        assert text in card


def test_entries_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        zoo.info("cifar_resnet20").sha256 = "0" * 64


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(zoo.ZooError, match=r"no entry 'alexnet'.*rfd_alexnet_imagenet"):
        zoo.info("alexnet")


def test_a_team_registers_its_own_once():
    own = dataclasses.replace(zoo.info("cifar_resnet20"), name="ours")
    assert zoo.register(own) is zoo.info("ours")
    with pytest.raises(zoo.ZooError, match="already"):
        zoo.register(own)
    zoo.register(dataclasses.replace(own, notes="new"), replace=True)
    assert zoo.info("ours").notes == "new"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../up"),
        ("file_name", "a/b"),
        ("file_name", "../b"),
        ("format", "onnx"),
        ("links", ("ftp://x",)),
        ("links", "https://x"),
        ("links", ("http://example.com/x",)),
        ("size", 0),
        ("sha256", "abc"),
    ],
)
def test_malformed_entries_are_refused(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        dataclasses.replace(zoo.info("cifar_resnet20"), **{field: value})


def test_preprocessing():
    pixels = np.array([[[255, 0, 128]]], "uint8")
    x = zoo.InputFormat((1, 1), mean=(0.5, 0.5, 0.0), std=(0.5, 0.5, 1.0))(pixels)
    np.testing.assert_allclose(x, [[[1.0, -1.0, 128 / 255]]], rtol=1e-6)
    bgr = zoo.InputFormat((1, 1), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 255.0), "BGR")(pixels)
    np.testing.assert_allclose(bgr, [[[128.0, 0.0, 255.0]]])


def test_import_is_light():
    heavy = ("keras", "tensorflow", "torch", "requests", "numpy", "h5py", "google.protobuf", "cryptography")
    use = "import sys, zoo; zoo.list(); zoo.model_card('cifar_resnet20')"
    code = f"{use}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


def test_using_one_function_does_not_hide_another():
    """`import zoo.X` sets the attribute X on `zoo`: no module may bear a public name."""
    names = {path.stem for path in (ROOT / "zoo").glob("*.py")}
    assert not names & set(zoo.__all__)
    assert set(zoo.__all__) <= set(dir(zoo))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zoo.nothing  # noqa: B018
