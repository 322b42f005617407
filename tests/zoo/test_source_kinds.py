"""Files are read by what they are, whichever format the entry is released in."""

import numpy as np
import pytest

import zoo
from tests.zoo.released import alexnet_state, register_narrow, save_torch
from zoo import registry
from zoo.conversion import verify_file
from zoo.sources import read_keras


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same network as every kind of file that the tool writes, some under other endings, and rubbish."""
    folder = tmp_path_factory.mktemp("files")
    save_torch(folder / "released.pth.tar", alexnet_state())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_entries", {})
        register_narrow()
        for name in ("a.keras", "a.caffemodel", "a.pth"):
            zoo.convert("narrow", folder / "released.pth.tar", folder / name)
    for name, same in (("a.pth", "torch.caffemodel"), ("a.caffemodel", "caffe.pth")):
        (folder / same).symlink_to(folder / name)
    for bad in ("bad.caffemodel", "bad.bin"):
        (folder / bad).write_text("words")
    return folder


@pytest.mark.parametrize("format", ["torch", "caffemodel"])
@pytest.mark.parametrize("file", ["a.keras", "a.caffemodel", "a.pth"])
def test_what_the_tool_wrote_converts_for_entries_of_any_format(written, tmp_path, format, file):
    register_narrow(format=format)
    zoo.convert("narrow", written / file, tmp_path / "b.keras")
    expected = read_keras(written / "a.keras").get_weights()
    for actual, wanted in zip(read_keras(tmp_path / "b.keras").get_weights(), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_verify(written):
    entry = register_narrow()
    assert verify_file(entry, written / "a.caffemodel", written / "a.keras").source_file == "a.caffemodel"


@pytest.mark.parametrize("file", ["torch.caffemodel", "caffe.pth"])
def test_content_goes_before_the_ending(written, file):
    register_narrow(format="caffemodel")
    assert zoo.load("narrow", from_file=written / file).name == "alexnet"


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        (
            "cifar_resnet20",
            "a.caffemodel",
            "was read as a Caffe network, but cifar_resnet20 is released as a Py",
        ),
        (
            "rfd_alexnet_voc",
            "a.pth",
            "was read as a PyTorch checkpoint, but rfd_alexnet_voc is released as a Ca",
        ),
        (
            "narrow",
            "a.keras",
            "is a .keras file and holds no source to verify; narrow is released as a PyTorch",
        ),
        (
            "narrow",
            "bad.caffemodel",
            "was read as a Caffe network, but narrow is released as a PyTorch checkp",
        ),
        ("narrow", "bad.bin", "bad.bin: is no PyTorch checkpoint: it starts with b'word'"),
    ],
)
def test_what_came_and_what_was_expected(written, name, file, message):
    register_narrow()
    with pytest.raises(zoo.ZooError, match=message):
        zoo.load(name, from_file=written / file)
