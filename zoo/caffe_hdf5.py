"""`.caffemodel.h5` files: the HDF5 form of a Caffe network (`data/LAYER/0`, `data/LAYER/1`)."""

from pathlib import Path

import h5py
import numpy as np

from zoo.caffe_blobs import LayerBlobs
from zoo.errors import FormatError

_MAX_LAYERS = 10_000
_MAX_BLOBS = 16


def read_caffe_hdf5(path: str | Path) -> dict[str, LayerBlobs]:
    """Layer name -> its blobs, for the layers that have any.

    Raises:
        FormatError: on a damaged, hostile or foreign file; the message names the file and the problem.
        OSError: if there is no such file.
    """
    path = Path(path)
    path.stat()
    try:
        with h5py.File(path, "r") as file:
            return _read_layers(file)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: is damaged, or no HDF5 file ({error})") from error


def _read_layers(file: h5py.File) -> dict[str, LayerBlobs]:
    data = _member(file, "data", h5py.Group)
    if len(data) > _MAX_LAYERS:
        raise FormatError(f"has {len(data)} layers; at most {_MAX_LAYERS}")
    layers = {}
    for name in data:
        group = _member(data, name, h5py.Group)
        if len(group) > _MAX_BLOBS:
            raise FormatError(f"its layer {name!r} has {len(group)} blobs; at most {_MAX_BLOBS}")
        if len(group):
            indices = [str(index) for index in range(len(group))]
            blobs = tuple(_read_dataset(_member(group, index, h5py.Dataset)) for index in indices)
            layers[name] = LayerBlobs("", blobs)
    if not layers:
        raise FormatError("is no Caffe network with weights: no data/LAYER/0")
    return layers


def _member(group: h5py.Group, name: str, kind: type):
    """The member, if it lies in this very file (links may lead to any other)."""
    link = group.get(name, getlink=True)
    if link is None:
        raise FormatError(f"has no {group.name.rstrip('/')}/{name}")
    if not isinstance(link, h5py.HardLink):
        raise FormatError(f"its {name!r} is a {type(link).__name__} to somewhere else: refused")
    member = group[name]
    if not isinstance(member, kind):
        raise FormatError(f"its {member.name!r} is a {type(member).__name__}, expected a {kind.__name__}")
    return member


def _read_dataset(dataset: h5py.Dataset) -> np.ndarray:
    if dataset.dtype.kind != "f" or dataset.dtype.itemsize not in (4, 8):
        raise FormatError(f"its {dataset.name!r} is of type {dataset.dtype}; weights are float32 or float64")
    if dataset.external or dataset.is_virtual or dataset.chunks:
        raise FormatError(f"its {dataset.name!r} is not plainly stored (external, virtual or compressed)")
    if dataset.shape is None or dataset.id.get_storage_size() < dataset.nbytes:
        raise FormatError(f"its {dataset.name!r} announces {dataset.shape} but stores less")
    return dataset[()]
