"""PyTorch checkpoints, read without PyTorch."""

import io
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from zoo.errors import FormatError
from zoo.safe_pickle import MAX_BYTES, Placeholder, SafePickle
from zoo.torch_tensors import KNOWN_NAMES, StorageTable, StoredTensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_NESTED_UNDER = ("network", "state_dict", "model_state_dict", "model", "net")
_MAX_DEPTH = 32
_MAX_LISTED = 50


class TorchWeights(NamedTuple):
    """What `read_weights` gives.

    Attributes:
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
        raise FormatError("its list of storages is no list of names")
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
        buffers[key] = _memory_map(file, storage, position)
        position += size * storage.dtype.itemsize
    if position != end:
        raise FormatError(f"has {end - position} bytes behind its last storage")
    return buffers


def _memory_map(file: BinaryIO, storage, position: int) -> np.ndarray:
    if not storage.size:  # an empty map is an error
        return np.empty(0, storage.dtype)
    return np.asarray(np.memmap(file, storage.dtype, "r", position, (storage.size,)))


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

    def fill(value: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise FormatError(f"nests its containers more than {_MAX_DEPTH} deep")
        if id(value) not in done:
            done[id(value)] = make(value, depth + 1)
        return done[id(value)]

    def make(value: Any, depth: int) -> Any:
        if isinstance(value, StoredTensor):
            return value.read(buffers[value.storage.key])
        if isinstance(value, dict):
            return {key: fill(item, depth) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)([fill(item, depth) for item in value])
        return value

    return fill(content, 0)
