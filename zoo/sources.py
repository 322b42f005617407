"""Weight files by their endings."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zoo.errors import FormatError

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
    from zoo.caffe_blobs import blob_state, read_caffe

    return blob_state(read_caffe(path))


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
