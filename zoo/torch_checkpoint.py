"""PyTorch checkpoints, zip or legacy, read without running code; and written."""

import io
import math
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

from zoo.errors import FormatError, ZooError
from zoo.safe_pickle import MAX_BYTES, Placeholder, SafePickle

_DTYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
}
MAX_DIMENSIONS = 16
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_NESTED_UNDER = ("network", "state_dict", "model_state_dict", "model", "net")
_MAX_DEPTH = 32
_MAX_LISTED = 50


@dataclass(frozen=True)
class Storage:
    """`size` elements in a flat buffer of the file, named by `key`."""

    key: str
    dtype: np.dtype
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of a storage, before its bytes are read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class StorageTable:
    """Collects the storages that a pickle mentions, checking that it speaks of each in one way only.

    Args:
        skippable: whether a storage can be found in the file without knowing the sizes of the others, so that
            one of an unknown type can be left unread.
    """

    def __init__(self, skippable: bool = False):
        self.storages: dict[str, Storage] = {}
        self._skippable = skippable

    def persistent(self, identity: Any) -> tuple[Storage, int] | Placeholder:
        """(storage, first element) of a persistent id `("storage", type, key, device, size[, view])`.

        A module (in legacy files `("module", class, source file, source)`) stays unread.
        """
        match identity:
            case ("module", Placeholder() as module, *_):
                return module
            case ("storage", Placeholder() as kind, *_):
                if not self._skippable:
                    raise FormatError(f"The checkpoint has a storage of the unknown type {kind.name!r}")
                return kind
            case ("storage", np.dtype() as dtype, str() as key, str(), int() as size, *rest):
                view = rest[0] if rest else None
            case _:
                raise FormatError(
                    f"The checkpoint refers to something that is not a storage: {reprlib.repr(identity)}"
                )
        storage = Storage(key, dtype, _natural(size, "storage size"))
        if self.storages.setdefault(key, storage) != storage:
            raise FormatError(f"The checkpoint describes its storage {key!r} in two ways")
        match view:
            case None:
                return storage, 0
            case (_, int() as offset, int()):
                return storage, _natural(offset, "view offset")
        raise FormatError(f"The checkpoint has a malformed view of a storage: {reprlib.repr(view)}")


def _natural(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**48:
        raise FormatError(f"The checkpoint has an impossible {what}: {reprlib.repr(value)}")
    return value


def _rebuild_tensor(stored, offset, shape, strides, *_) -> StoredTensor:
    if not (isinstance(stored, tuple) and len(stored) == 2 and isinstance(stored[0], Storage)):
        raise FormatError("The checkpoint builds a tensor of something that is not a storage")
    storage, first = stored
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
        raise FormatError(
            f"The checkpoint has a malformed shape {reprlib.repr(shape)} with strides {reprlib.repr(strides)}"
        )
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"The checkpoint has a tensor of {len(shape)} dimensions; at most {MAX_DIMENSIONS}")
    shape = tuple(_natural(size, "tensor size") for size in shape)
    strides = tuple(_natural(stride, "stride") for stride in strides)
    offset = first + _natural(offset, "offset")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    count = math.prod(shape)
    if (count and (last >= storage.size or count > storage.size)) or offset > storage.size:
        raise FormatError(
            f"The checkpoint has a tensor of shape {shape} that does not fit its storage of {storage.size}"
        )
    return StoredTensor(storage, offset, shape, strides)


def _rebuild_parameter(data, *_) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise FormatError("The checkpoint has a parameter that is not a tensor")
    return data


def _size(dimensions) -> tuple[int, ...]:
    return tuple(_natural(size, "size") for size in dimensions)


def _ordered_dict(pairs=()) -> dict[str, Any]:
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise FormatError(f"The checkpoint has a malformed OrderedDict: {reprlib.repr(pairs)}")
    if not all(isinstance(key, str) for key, _ in pairs):
        raise FormatError("The checkpoint has an OrderedDict with keys that are not strings")
    return dict(pairs)


KNOWN_NAMES: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    "torch.storage.UntypedStorage": np.dtype(np.uint8),
    **{
        f"{module}.{name}Storage": np.dtype(dtype)
        for name, dtype in _DTYPES.items()
        for module in ("torch", "torch.cuda")
    },
}


class TorchWeights(NamedTuple):
    """What a checkpoint holds.

    Args:
        state: name -> read-only array; bfloat16 as `ml_dtypes.bfloat16`.
        unread: "place: class" of what is beside the weights and was not read: "args: argparse.Namespace".
    """

    state: dict[str, np.ndarray]
    unread: tuple[str, ...]


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """`read_weights(path).state`."""
    return read_weights(path).state


def read_weights(path: str | Path) -> TorchWeights:
    """The state dict of a checkpoint, bare or under one of `_NESTED_UNDER`, without any `module.` prefix.

    Raises:
        FormatError: on a damaged, hostile or foreign file, or one without a state dict.
    """
    content = whole = read_checkpoint(path)
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise FormatError(
            f"{path}: holds no state dict, bare or under {' or '.join(_NESTED_UNDER)}{_instead(whole)}"
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            kind = value.name if isinstance(value, Placeholder) else type(value).__name__
            raise FormatError(
                f"{path}: {reprlib.repr(key)} is a {kind}, where a state dict has tensors{_instead(whole)}"
            )
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return TorchWeights(dict(content), _unread(whole))


def _instead(whole: Any) -> str:
    """What a file without a state dict holds that was not read, for its error."""
    unread = _unread(whole)
    return f"; not read, as no code of a file is run: {', '.join(unread)}" if unread else ""


def _unread(whole: Any) -> tuple[str, ...]:
    """Where the placeholders are: "args: argparse.Namespace"; those of a list count as one."""
    found: dict[str, None] = {}
    seen: set[int] = set()

    def look(value: Any, place: str) -> None:
        if len(found) > _MAX_LISTED:
            return
        if isinstance(value, Placeholder):
            found[f"{place}: {value.name}" if place else value.name] = None
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            for key, item in value.items() if isinstance(value, dict) else (("[]", item) for item in value):
                if isinstance(item, Placeholder | dict | list | tuple):
                    look(item, _place(place, key))

    look(whole, "")
    return (*list(found)[:_MAX_LISTED], *(["and more"] if len(found) > _MAX_LISTED else []))


def _place(place: str, key: Any) -> str:
    name = key.name if isinstance(key, Placeholder) else str(key)[:60]
    name = name if name.isprintable() else ascii(name)
    return place + name if name == "[]" else f"{place}.{name}".removeprefix(".")


def read_checkpoint(path: str | Path) -> Any:
    """Everything in a legacy (before PyTorch 1.6) or zip checkpoint; tensors as NumPy arrays.

    No code of the file is run. Tensors and containers alone are known; anything else is a `Placeholder`.

    Raises:
        FormatError: on a damaged, hostile or foreign file; the message names the file and the problem.
        OSError: if the file cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        try:
            if start == b"PK\x03\x04":
                return _read_zip(file)
            if start[:1] == b"\x80":
                return _read_legacy(file)
            raise FormatError(f"is no PyTorch checkpoint: it starts with {start!r}")
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error


def _read_legacy(file: BinaryIO) -> Any:
    table = StorageTable()
    if (magic := _unpickle(file)) != _LEGACY_MAGIC:
        raise FormatError(f"is no PyTorch checkpoint: wrong magic {reprlib.repr(magic)}")
    if (protocol := _unpickle(file)) != _LEGACY_PROTOCOL:
        raise FormatError(f"is of protocol {reprlib.repr(protocol)}; known is {_LEGACY_PROTOCOL}")
    system = _unpickle(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise FormatError("was not written by a little-endian machine")
    content = _unpickle(file, table)
    keys = _unpickle(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError("its list of storages is not a list of names")
    if sorted(keys) != sorted(table.storages):
        raise FormatError("its list of storages is not the one that its tensors need")
    return _fill(content, _map_storages(file, keys, table))


def _map_storages(file: BinaryIO, keys: list[str], table: StorageTable) -> dict[str, np.ndarray]:
    """Memory maps: a storage's pages are read when its tensor is used."""
    position = file.tell()
    end = file.seek(0, 2)
    buffers = {}
    for key in keys:
        storage = table.storages[key]
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            raise FormatError(f"is cut short before its storage {key!r}")
        size = struct.unpack("<q", header)[0]
        if size != storage.size:
            raise FormatError(f"its storage {key!r} has {size} elements where {storage.size} were announced")
        position += 8
        if size * storage.dtype.itemsize > end - position:
            raise FormatError(f"is cut short within its storage {key!r}")
        if size:
            buffers[key] = np.asarray(np.memmap(file, storage.dtype, "r", position, (size,)))
        else:  # an empty map is an error
            buffers[key] = np.empty(0, storage.dtype)
        position += size * storage.dtype.itemsize
    if position != end:
        raise FormatError(f"has {end - position} bytes behind its last storage")
    return buffers


def _read_zip(file: BinaryIO) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive)
    except FormatError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise FormatError(f"is a damaged zip archive ({error})") from error


def _read_archive(archive: zipfile.ZipFile) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise FormatError(f"is a zip archive with {len(pickles)} data.pkl where a checkpoint has one")
    root = pickles[0].removesuffix("data.pkl")
    if root + "byteorder" in archive.namelist() and _member(archive, root + "byteorder", 6) != b"little":
        raise FormatError("was not written by a little-endian machine")
    table = StorageTable(skippable=True)
    pickled = archive.getinfo(pickles[0])
    if pickled.file_size > MAX_BYTES:
        raise FormatError(f"its data.pkl has {pickled.file_size} bytes; at most {MAX_BYTES}")
    content = _unpickle(io.BytesIO(_member(archive, pickles[0], pickled.file_size)), table)
    buffers = {}
    for key, storage in table.storages.items():
        data = _member(archive, f"{root}data/{key}", storage.size * storage.dtype.itemsize)
        buffers[key] = np.frombuffer(data, storage.dtype)
    return _fill(content, buffers)


def _member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise FormatError(f"lacks its member {name!r}") from None
    if info.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"its member {name!r} is compressed, which PyTorch never does")
    if info.file_size != size or info.compress_size != size:
        raise FormatError(f"its member {name!r} has {info.file_size} bytes where {size} were announced")
    return archive.read(info)


def _unpickle(file: BinaryIO, table: StorageTable | None = None) -> Any:
    return SafePickle(file, KNOWN_NAMES if table else {}, (table or StorageTable()).persistent).load()


def _fill(content: Any, buffers: Mapping[str, np.ndarray]) -> Any:
    """`content` with every stored tensor read; a container met twice is filled once."""
    done: dict[int, Any] = {}

    def fill(value: Any, depth: int = 0) -> Any:
        if depth > _MAX_DEPTH:
            raise FormatError(f"nests its containers more than {_MAX_DEPTH} deep")
        if isinstance(value, StoredTensor):
            buffer = buffers[value.storage.key]
            steps = tuple(stride * buffer.itemsize for stride in value.strides)
            return as_strided(buffer[value.offset :], value.shape, steps, writeable=False)
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, dict):
            done[id(value)] = {key: fill(item, depth + 1) for key, item in value.items()}
        elif isinstance(value, list | tuple):
            done[id(value)] = type(value)([fill(item, depth + 1) for item in value])
        return done.get(id(value), value)

    return fill(content)


def write_checkpoint(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Write `{"network": state}` in PyTorch's zip format.

    Raises:
        ZooError: if PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise ZooError("Writing a PyTorch checkpoint needs PyTorch: pip install 'rfd_tf[torch]'") from None
    tensors = {key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    torch.save({"network": tensors}, path)
