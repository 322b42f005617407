"""The names that a PyTorch checkpoint's pickle may use, and the tensors they stand for."""

import math
import reprlib
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from zoo.errors import FormatError
from zoo.safe_pickle import Placeholder

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

    def read(self, buffer: np.ndarray) -> np.ndarray:
        """The tensor, as a view of its storage's elements."""
        steps = tuple(stride * buffer.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(
            buffer[self.offset :], self.shape, steps, writeable=False, subok=False
        )


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
                    f"The checkpoint refers to something that is no storage: {reprlib.repr(identity)}"
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
        raise FormatError("The checkpoint builds a tensor of something that is no storage")
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
        raise FormatError("The checkpoint has a parameter that is no tensor")
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
