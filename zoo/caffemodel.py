"""`.caffemodel` files: binary NetParameter messages."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from zoo.caffe_blobs import LayerBlobs
from zoo.caffe_proto import V1_CONVOLUTION, V1_INNER_PRODUCT, message_class
from zoo.errors import FormatError
from zoo.protobuf_scan import count_fields

MAX_BYTES = 2**31 - 1  # protobuf's own bound
_MAX_FIELDS = 200_000
_MAX_CONNECTIONS = 1_000_000
_LAYER_FIELDS = {2: {}, 100: {}}
_V1_TYPES = {V1_CONVOLUTION: "Convolution", V1_INNER_PRODUCT: "InnerProduct"}


def read_caffemodel(path: str | Path) -> dict[str, LayerBlobs]:
    """Layer name -> its type and blobs, for the layers that have any, in the file's order.

    New and V1 layers, packed and unpacked numbers, single and double precision, new and legacy shapes.

    Raises:
        FormatError: on a damaged, hostile or foreign file; the message names the file and the problem.
        OSError: if the file cannot be opened.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise FormatError(f"has {size} bytes; a Caffe network has 1 to {MAX_BYTES}")
        return _layers(_parse(path.read_bytes()))
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def _parse(data: bytes):
    count_fields(memoryview(data), _LAYER_FIELDS, _MAX_FIELDS)
    try:
        return message_class("NetParameter").FromString(data)
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
        if not isinstance(layer.name, str):  # protobuf gives bytes where they are no text
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
            _add_blobs(proto, layer.blobs)
            file.write(net.SerializeToString())
            bottom = layer_name


def _add_blobs(proto, blobs: Sequence[np.ndarray]) -> None:
    for blob in blobs:
        message = proto.blobs.add()
        message.shape.dim.extend(blob.shape)
        payload = np.ascontiguousarray(blob, "<f4").tobytes()
        # The field as its bytes (tag, length, numbers): far faster and smaller than a list of floats.
        message.MergeFromString(_DATA_TAG + _encode_varint(len(payload)) + payload)


_DATA_TAG = bytes([5 << 3 | 2])


def _encode_varint(value: int) -> bytes:
    groups = []
    while True:
        value, low = value >> 7, value & 0x7F
        groups.append(low | (0x80 if value else 0))
        if not value:
            return bytes(groups)
