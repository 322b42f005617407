"""Caffe's weights, from `.caffemodel` (binary or HDF5) to arrays by layer."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from zoo.errors import FormatError

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_BYTES = 2**31 - 1  # protobuf's own bound
_MAX_LAYERS = 10_000
_MAX_BLOBS = 16
_MAX_FIELDS = 200_000
_MAX_CONNECTIONS = 1_000_000
# message -> (field, number, type, repeated)
_MESSAGES = {
    "BlobShape": (("dim", 1, "int64", True),),
    "BlobProto": (
        ("num", 1, "int32", False),
        ("channels", 2, "int32", False),
        ("height", 3, "int32", False),
        ("width", 4, "int32", False),
        ("data", 5, "float", True),
        ("shape", 7, "BlobShape", False),
        ("double_data", 8, "double", True),
    ),
    "V1LayerParameter": (
        ("layer", 1, "bytes", False),  # the still older V0 form, only to refuse it by name
        ("bottom", 2, "string", True),
        ("top", 3, "string", True),
        ("name", 4, "string", False),
        ("type", 5, "int32", False),
        ("blobs", 6, "BlobProto", True),
    ),
    "LayerParameter": (
        ("name", 1, "string", False),
        ("type", 2, "string", False),
        ("bottom", 3, "string", True),
        ("top", 4, "string", True),
        ("blobs", 7, "BlobProto", True),
    ),
    "NetParameter": (
        ("name", 1, "string", False),
        ("layers", 2, "V1LayerParameter", True),
        ("layer", 100, "LayerParameter", True),
    ),
}
_LAYER_FIELDS = (2, 100)  # of NetParameter
_DATA_TAG = bytes([5 << 3 | 2])  # of BlobProto: number 5, a string of bytes
_V1_TYPES = {4: "Convolution", 14: "InnerProduct"}


@dataclass(frozen=True)
class LayerBlobs:
    """The blobs of one layer.

    Args:
        kind: Caffe's layer type, or empty where the file does not tell.
        blobs: its arrays.
        inputs: names of the layers with blobs whose outputs it gets, directly or through layers without;
            None where the file does not tell.
    """

    kind: str
    blobs: tuple[np.ndarray, ...]
    inputs: frozenset[str] | None = None


def blob_state(layers: Mapping[str, LayerBlobs]) -> dict[str, np.ndarray]:
    """`LAYER/INDEX` -> array; a batch norm's statistics divided by its third blob, Caffe's scale factor.

    Raises:
        FormatError: if a batch norm has other than three blobs.
    """
    state = {}
    for name, layer in layers.items():
        blobs = layer.blobs
        if (layer.kind or _kind(name, blobs[0])) == "BatchNorm":
            if len(blobs) != 3 or blobs[2].size != 1:
                raise FormatError(f"The BatchNorm layer {name!r} has {len(blobs)} blobs; Caffe's have three")
            factor = blobs[2].reshape(())
            blobs = tuple(blob / factor if factor else np.zeros_like(blob) for blob in blobs[:2])
        state.update({f"{name}/{index}": blob for index, blob in enumerate(blobs)})
    return state


def spare_layers(layers: Mapping[str, LayerBlobs], wanted: Collection[str]) -> tuple[str, ...]:
    """Names of the layers that are not wanted and can be left out without changing what the others compute.

    Raises:
        FormatError: if a wanted layer gets the output of another, or where the file does not tell that, if
            another has no kernel: batch norms and scales change the values of the layer before.
    """
    spare = tuple(name for name in layers if name not in wanted)
    present = [name for name in wanted if name in layers]
    for name in spare:
        inputs = layers[name].inputs
        user = next((user for user in present if name in (layers[user].inputs or ())), None)
        if user is not None:
            raise FormatError(f"its layer {user!r} is computed from {name!r}, for which there is no place")
        if layers[name].blobs[0].ndim < 2 and (not inputs or not inputs.isdisjoint(present)):
            changed = f" of {', '.join(sorted(inputs.intersection(present)))}" if inputs else ""
            raise FormatError(f"its layer {name!r} changes values{changed}, and there is no place for it")
    return spare


def state_layers(state: Mapping[str, np.ndarray]) -> dict[str, LayerBlobs]:
    """The inverse of `blob_state`, for layers named as the zoo names them."""
    grouped: dict[str, list[np.ndarray]] = {}
    for key, array in state.items():
        grouped.setdefault(key.rpartition("/")[0], []).append(array)
    layers = {}
    for name, blobs in grouped.items():
        kind = _kind(name, blobs[0])
        if kind == "BatchNorm":
            blobs = [*blobs, np.ones(1, "float32")]
        layers[name] = LayerBlobs(kind, tuple(blobs))
    return layers


def _kind(name: str, first: np.ndarray) -> str:
    if name.endswith("_bn"):
        return "BatchNorm"
    if name.endswith("_scale"):
        return "Scale"
    return "Convolution" if first.ndim == 4 else "InnerProduct"


@cache
def message_class(name: str) -> Any:
    """The class of one of the messages above, by its name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"rfd_tf.caffe.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="rfd_tf_caffe.proto", package="rfd_tf.caffe", syntax="proto2"
    )
    for message, fields in _MESSAGES.items():
        proto = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            field = proto.field.add(name=name, number=number, label=label)
            if kind in _MESSAGES:
                field.type = field_type.TYPE_MESSAGE
                field.type_name = f".rfd_tf.caffe.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
            if repeated and kind in ("int64", "float", "double"):
                field.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def read_caffe(path: str | Path) -> dict[str, LayerBlobs]:
    """Layer name -> its blobs, for the layers that have any, of a `.caffemodel` or `.caffemodel.h5`.

    The two are told apart by their first bytes. In the binary form: new and V1 layers, packed and unpacked
    numbers, single and double precision, new and legacy shapes, all in the file's order.

    Raises:
        FormatError: on a damaged, hostile or foreign file; the message names the file and the problem.
        OSError: if the file cannot be opened.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            is_hdf5 = file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
        return _read_hdf5(path) if is_hdf5 else _read_binary(path)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def _read_hdf5(path: Path) -> dict[str, LayerBlobs]:
    try:
        with h5py.File(path, "r") as file:
            return _read_layers(file)
    except FormatError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"is damaged, or no HDF5 file ({error})") from error


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


def _count_fields(data: memoryview, inside: Collection[int], limit: int) -> int:
    """How many fields a serialised message has, counting within those of the numbers `inside` as well.

    Raises:
        FormatError: if a field runs past its message's end, is of no known kind, or there are too many.
    """
    position = count = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        size = 0
        if kind == 0:
            _, position = _varint(data, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        elif kind == 2:
            size, position = _varint(data, position)
        else:
            raise FormatError(f"is no Caffe network: wire type {kind} at byte {position}")
        if size > len(data) - position:
            raise FormatError(
                f"is cut short: field {number} announces {size} bytes, {len(data) - position} are left"
            )
        count += 1
        if kind == 2 and number in inside:
            count += _count_fields(data[position : position + size], (), limit - count)
        position += size
        if count > limit:
            raise FormatError("has far more fields than any network")
    return count


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise FormatError("is cut short within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise FormatError(f"has a number of more than 10 bytes before byte {position}")


def _read_binary(path: Path) -> dict[str, LayerBlobs]:
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise FormatError(f"has {size} bytes; a Caffe network has 1 to {MAX_BYTES}")
    data = path.read_bytes()
    # Before protobuf sees them: some bytes of input can make it build millions of objects.
    _count_fields(memoryview(data), _LAYER_FIELDS, _MAX_FIELDS)
    try:
        return _layers(message_class("NetParameter").FromString(data))
    except DecodeError as error:
        raise FormatError(f"is no Caffe network ({error})") from error


def _layers(net) -> dict[str, LayerBlobs]:
    if any(layer.HasField("layer") for layer in net.layers):
        raise FormatError(
            "has layers of Caffe's oldest form (V0): upgrade it with Caffe's upgrade_net_proto_binary"
        )
    found: dict[str, LayerBlobs] = {}
    made_by: dict[str, frozenset[str]] = {}  # blob: the layers with weights that it comes from
    connections = 0
    for layer in [*net.layers, *net.layer]:
        inputs = frozenset().union(*(made_by.get(bottom, ()) for bottom in layer.bottom))
        connections += len(inputs)
        if connections > _MAX_CONNECTIONS:
            raise FormatError(f"has more than {_MAX_CONNECTIONS} connections between its layers")
        made_by.update(dict.fromkeys(layer.top, frozenset([layer.name]) if layer.blobs else inputs))
        if not layer.blobs:
            continue
        if not isinstance(layer.name, str):  # protobuf gives bytes where they are not text
            raise FormatError(f"has a layer of the name {layer.name!r:.80}, which is no UTF-8")
        if layer.name in found:
            raise FormatError(f"has two layers with weights named {layer.name!r}")
        kind = layer.type if isinstance(layer.type, str) else _V1_TYPES.get(layer.type, f"V1 {layer.type}")
        blobs = tuple(
            _array(blob, f"{layer.name}/{index}", kind, index) for index, blob in enumerate(layer.blobs)
        )
        found[layer.name] = LayerBlobs(kind, blobs, inputs if layer.bottom else None)
    if not found:
        raise FormatError("is no Caffe network with weights: it has no layer with blobs")
    return found


def _array(blob, name: str, kind: str, index: int) -> np.ndarray:
    values = blob.double_data if blob.double_data and not blob.data else blob.data
    dtype = np.float32 if values is blob.data else np.float64
    shape = _shape(blob, kind, index)
    if any(size < 0 for size in shape) or math.prod(shape) != len(values):
        raise FormatError(f"its blob {name!r} has {len(values)} numbers, which its shape {shape} contradicts")
    return np.fromiter(values, dtype, len(values)).reshape(shape)


def _shape(blob, kind: str, index: int) -> tuple[int, ...]:
    """The shape; of legacy (num, channels, height, width) only what the blob's role in its layer needs."""
    if blob.HasField("shape"):
        return tuple(blob.shape.dim)
    legacy = (blob.num, blob.channels, blob.height, blob.width)
    if not any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return (len(blob.data) or len(blob.double_data),)
    needed = 1 if index else 2 if kind == "InnerProduct" else 4
    if all(size == 1 for size in legacy[: 4 - needed]):
        return legacy[4 - needed :]
    return legacy


def write_caffemodel(path: str | Path, layers: Mapping[str, LayerBlobs], name: str) -> None:
    """Write new-form layers, float32 packed, in the given order; each layer's bottom is the one before."""
    bottom = "data"
    with Path(path).open("wb") as file:
        # Serialised messages one behind the other are the merged message: one layer in memory at a time.
        file.write(message_class("NetParameter")(name=name).SerializeToString())
        for layer_name, layer in layers.items():
            net = message_class("NetParameter")()
            proto = net.layer.add(name=layer_name, type=layer.kind, bottom=[bottom], top=[layer_name])
            for blob in layer.blobs:
                message = proto.blobs.add()
                message.shape.dim.extend(blob.shape)
                payload = np.ascontiguousarray(blob, "<f4").tobytes()
                # The field as its bytes (tag, length, numbers): far faster and smaller than a list of floats.
                message.MergeFromString(_DATA_TAG + _encode_varint(len(payload)) + payload)
            file.write(net.SerializeToString())
            bottom = layer_name


def _encode_varint(value: int) -> bytes:
    groups = []
    while True:
        value, low = value >> 7, value & 0x7F
        groups.append(low | (0x80 if value else 0))
        if not value:
            return bytes(groups)
