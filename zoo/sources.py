"""Weight files by their endings and first bytes, and what they hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.errors import FormatError

if TYPE_CHECKING:
    import keras  # an ending is checked without it

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
_MAGIC = {b"\x89HDF\r\n\x1a\n": "caffe", b"PK\x03\x04": "torch", b"\x80": "torch"}  # zip, else legacy


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
    _check_there(path)
    by_ending = _by_ending(path, _READABLE)
    if by_ending == "keras":
        return by_ending
    with Path(path).open("rb") as file:
        start = file.read(8)
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    return "caffe" if by_ending == "caffe" else expected


def _by_ending(path: str | Path, endings: Mapping[str, str]) -> str | None:
    name = Path(path).name.lower()
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), None)


def _check_there(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FormatError(f"{path}: there is no such file")


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

    def arrays(self, wanted: Iterable[str] | None = None) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """The arrays to fill a network with, and the names of Caffe layers that are left out.

        Args:
            wanted: the keys that the network needs; of a Caffe network only their layers are taken. By
                default all.

        Raises:
            FormatError: if a layer that is not wanted cannot be left out, or a batch norm is malformed.
        """
        if not self.layers:
            return dict(self.state), ()
        from zoo.caffe import blob_state, spare_layers

        spare: tuple[str, ...] = ()
        if wanted is not None:
            spare = spare_layers(self.layers, {key.rpartition("/")[0] for key in wanted})
        return blob_state({name: layer for name, layer in self.layers.items() if name not in spare}), spare


def read_source(path: str | Path, kind: str) -> Source:
    """What a `torch` or `caffe` file holds.

    Raises:
        FormatError: if the file is missing, damaged, hostile, or of another format.
    """
    _check_there(path)
    if kind == "torch":
        from zoo.torch_checkpoint import read_weights

        state, unread = read_weights(path)
        return Source(state=state, unread=unread)
    from zoo.caffe import read_caffe

    return Source(layers=read_caffe(path))


def read_keras(path: str | Path) -> "keras.Model":
    """The model of a `.keras` file; code inside it is not run (Keras's safe mode).

    Raises:
        FormatError: if the file is missing or cannot be read.
    """
    from rfd_tf.models import keras_file  # registers our layers as well

    _check_there(path)
    try:
        return keras_file.read_keras(Path(path))
    except ValueError as error:
        raise FormatError(str(error)) from error
