"""Weight files by their endings."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import FormatError

if TYPE_CHECKING:
    from zoo.caffe_blobs import LayerBlobs

_ENDINGS = {
    ".keras": "keras",
    ".pth": "torch",
    ".pth.tar": "torch",
    ".pt": "torch",
    ".th": "torch",
    ".caffemodel": "caffe",
    ".caffemodel.h5": "caffe",
}


def kind_of(path: str | Path) -> str:
    """`keras`, `torch` or `caffe`, by the file's ending.

    Raises:
        FormatError: on another ending.
    """
    name = Path(path).name.lower()
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind
    raise FormatError(f"{path}: unknown ending; known are {', '.join(_ENDINGS)}")


def read_arrays(path: str | Path, kind: str) -> dict[str, np.ndarray]:
    """The arrays of a `torch` or `caffe` file by their own names.

    Raises:
        FormatError: if the file is missing, damaged, hostile, or of another format.
    """
    if not Path(path).is_file():
        raise FormatError(f"{path}: there is no such file")
    if kind == "torch":
        from zoo.torch_checkpoint import read_state_dict

        return read_state_dict(path)
    from zoo.caffe_blobs import blob_state

    return blob_state(read_caffe(path))


def read_caffe(path: str | Path) -> "dict[str, LayerBlobs]":
    """Layer name -> blobs, from a `.caffemodel` or a `.caffemodel.h5`, told apart by their first bytes.

    Raises:
        FormatError: on a damaged, hostile or foreign file.
    """
    with Path(path).open("rb") as file:
        is_hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"
    if is_hdf5:
        from zoo.caffe_hdf5 import read_caffe_hdf5 as read
    else:
        from zoo.caffemodel import read_caffemodel as read
    return read(path)


def write_arrays(path: str | Path, kind: str, state: Mapping[str, np.ndarray]) -> None:
    """Write a `torch` or `caffe` file, in place.

    Raises:
        ZooError: if PyTorch is needed and not installed.
    """
    if kind == "torch":
        from zoo.torch_writer import write_checkpoint

        write_checkpoint(path, state)
    else:
        from zoo.caffe_blobs import state_layers
        from zoo.caffemodel import write_caffemodel

        write_caffemodel(path, state_layers(state), Path(path).name.partition(".")[0])
