"""Weight files by their endings and first bytes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import FormatError

if TYPE_CHECKING:
    from zoo.caffe import LayerBlobs

_WRITABLE = {
    ".keras": "keras",
    ".pth": "torch",
    ".pth.tar": "torch",
    ".pt": "torch",
    ".th": "torch",
    ".caffemodel": "caffe",
}
_READABLE = _WRITABLE | {".caffemodel.h5": "caffe"}
KIND_NAMES = {"keras": "a .keras file", "torch": "a PyTorch checkpoint", "caffe": "a Caffe network"}
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80")  # zip, and a legacy checkpoint's first pickle


def kind_of(path: str | Path) -> str:
    """`keras`, `torch` or `caffe`, by the ending of a file to be read.

    Raises:
        FormatError: on another ending.
    """
    if kind := _by_ending(path, _READABLE):
        return kind
    raise FormatError(f"{path}: unknown ending; known are {', '.join(_READABLE)}")


def kind_to_write(path: str | Path) -> str:
    """`keras`, `torch` or `caffe`, by the ending of a file to be written.

    Raises:
        FormatError: on another ending, also on one that can only be read.
    """
    if kind := _by_ending(path, _WRITABLE):
        return kind
    problem = "this ending is read, but not written" if _by_ending(path, _READABLE) else "unknown ending"
    raise FormatError(f"{path}: {problem}; the endings to write are {', '.join(_WRITABLE)}")


def kind_of_file(path: str | Path, expected: str) -> str:
    """What a file holds, by its first bytes, else by a Caffe ending, else what is expected.

    `keras` by the ending alone: Keras, whose reader is not ours, gets no file that is not called so.

    Raises:
        FormatError: if there is no such file.
    """
    if not Path(path).is_file():
        raise FormatError(f"{path}: there is no such file")
    by_ending = _by_ending(path, _READABLE)
    if by_ending == "keras":
        return by_ending
    start = _first_bytes(path)
    if start == _HDF5_MAGIC:
        return "caffe"
    if start.startswith(_TORCH_MAGIC):
        return "torch"
    return "caffe" if by_ending == "caffe" else expected


def _by_ending(path: str | Path, endings: Mapping[str, str]) -> str | None:
    name = Path(path).name.lower()
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), None)


def _first_bytes(path: str | Path) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(len(_HDF5_MAGIC))


@dataclass(frozen=True)
class Source:
    """What a weight file holds.

    Args:
        state: the arrays of a PyTorch file by their names.
        layers: of a Caffe network, by their names.
        unread: "place: class" of what is beside the weights of a PyTorch file.
    """

    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    layers: "Mapping[str, LayerBlobs]" = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def arrays(self, wanted: Iterable[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """The arrays to fill a network with, and the names of Caffe layers that are left out.

        Args:
            wanted: the keys that the network needs; of a Caffe network only their layers are taken.

        Raises:
            FormatError: if a layer that is not wanted cannot be left out, or a batch norm is malformed.
        """
        if not self.layers:
            return dict(self.state), ()
        from zoo.caffe import blob_state, spare_layers

        spare = spare_layers(self.layers, {key.rpartition("/")[0] for key in wanted})
        return blob_state({name: layer for name, layer in self.layers.items() if name not in spare}), spare


def read_source(path: str | Path, kind: str) -> Source:
    """What a `torch` or `caffe` file holds.

    Raises:
        FormatError: if the file is missing, damaged, hostile, or of another format.
    """
    if not Path(path).is_file():
        raise FormatError(f"{path}: there is no such file")
    if kind == "torch":
        from zoo.torch_checkpoint import read_weights

        weights = read_weights(path)
        return Source(state=weights.state, unread=weights.unread)
    return Source(layers=read_caffe(path))


def read_arrays(path: str | Path, kind: str) -> dict[str, np.ndarray]:
    """All arrays of a `torch` or `caffe` file by their own names.

    Raises:
        FormatError: as `read_source`, and if a batch norm is malformed.
    """
    source = read_source(path, kind)
    if not source.layers:
        return dict(source.state)
    from zoo.caffe import blob_state

    return blob_state(source.layers)


def read_caffe(path: str | Path) -> "dict[str, LayerBlobs]":
    """Layer name -> blobs, from a `.caffemodel` or a `.caffemodel.h5`, told apart by their first bytes.

    Raises:
        FormatError: on a damaged, hostile or foreign file.
    """
    if _first_bytes(path) == _HDF5_MAGIC:
        from zoo.caffe import read_caffe_hdf5 as read
    else:
        from zoo.caffe import read_caffemodel as read
    return read(path)


def write_arrays(path: str | Path, kind: str, state: Mapping[str, np.ndarray]) -> None:
    """Write a `torch` or `caffe` file, in place.

    Raises:
        ZooError: if PyTorch is needed and not installed.
    """
    if kind == "torch":
        from zoo.torch_checkpoint import write_checkpoint

        write_checkpoint(path, state)
    else:
        from zoo.caffe import state_layers, write_caffemodel

        write_caffemodel(path, state_layers(state), Path(path).name.partition(".")[0])
