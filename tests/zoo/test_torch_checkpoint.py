import numpy as np
import pytest
import torch

import zoo
from tests.zoo.released import resnet_state, save_torch
from zoo.torch_checkpoint import read_checkpoint, read_state_dict

FORMATS = pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])


@FORMATS
@pytest.mark.parametrize("nest", ["network", "state_dict", None])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_layouts(tmp_path, legacy, nest, prefix):
    state = resnet_state()
    save_torch(tmp_path / "x.pth", state, legacy=legacy, nest=nest, prefix=prefix)
    read = read_state_dict(tmp_path / "x.pth")
    assert list(read) == list(state)
    for key, array in state.items():
        np.testing.assert_array_equal(read[key], array, strict=True)


@FORMATS
@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
)
def test_types_are_read_bit_exactly(tmp_path, legacy, dtype):
    tensor = (torch.arange(6).reshape(2, 3) - 2).to(getattr(torch, dtype))
    torch.save({"x": tensor}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    array = read_state_dict(tmp_path / "x.pth")["x"]
    assert array.dtype.name == dtype
    raw = tensor.view(torch.uint8) if dtype != "bool" else tensor
    assert array.tobytes() == raw.numpy().tobytes()


@FORMATS
def test_views_parameters_and_metadata(tmp_path, legacy):
    base = torch.arange(24.0).reshape(4, 6)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    content = {
        "whole": base,
        "turned": base.t(),
        "slice": base[1:3, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": [module.state_dict(), (1, "two", None, True, 2.5, 10**20)],
        "size": torch.Size([2, 3]),
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(tmp_path / "x.pth")
    for key in ("whole", "turned", "slice", "scalar", "empty", "parameter"):
        np.testing.assert_array_equal(read[key], content[key].detach().numpy(), strict=True)
    for key, tensor in module.state_dict().items():
        np.testing.assert_array_equal(read["nested"][0][key], tensor.numpy(), strict=True)
    assert read["nested"][1] == (1, "two", None, True, 2.5, 10**20)
    assert read["size"] == (2, 3)
    assert not read["whole"].flags.writeable


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, protocol):
    torch.save({"a": torch.ones(3)}, tmp_path / "x.pth", pickle_protocol=protocol)
    np.testing.assert_array_equal(read_state_dict(tmp_path / "x.pth")["a"], np.ones(3, "float32"))


def test_a_file_without_a_state_dict(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(zoo.FormatError, match="'epoch' is a int, where a state dict has tensors"):
        read_state_dict(tmp_path / "x.pth")
    torch.save([torch.ones(2)], tmp_path / "x.pth")
    with pytest.raises(zoo.FormatError, match="no state dict"):
        read_state_dict(tmp_path / "x.pth")


def test_cuda_storages(test_data):
    """The real file was saved from a GPU; its tensors say `cuda:0`."""
    path = test_data / "weights" / "torch_legacy" / "resnet20-12fca82f.th"
    assert b"cuda:0" in path.read_bytes()
    expected = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    read = read_state_dict(path)
    assert len(read) == len(expected) == 97
    for key, tensor in expected.items():
        np.testing.assert_array_equal(read[key.removeprefix("module.")], tensor.numpy(), strict=True)
