"""MATLAB's level 5 files, as far as arrays of numbers and cells of arrays and texts go.

SciPy's reader is not used: it follows numbers in the file into memory that is not its own.

Reference: MathWorks, "MAT-File Format", R2023b, chapter 1.
"""

import dataclasses
import math
import struct
import zlib
from collections.abc import Collection

import numpy as np

MOST_BYTES = 2**30  # of all that is unpacked
_MOST_RATIO = 200  # of unpacked to packed: boxes are packed to a tenth
_MOST_DIMENSIONS = 8
_HEADER_BYTES = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_CELL, _CHAR = 1, 4
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x800


class Mat5Error(ValueError):
    """Bytes that are no such file, or hold other things."""


def parse_mat5(content: bytes, names: Collection[str]) -> dict[str, np.ndarray]:
    """The variables `names` that are there: numbers, object arrays of cells, or a text as an array of one.

    Raises:
        Mat5Error: on damage, other levels of the format, and variables of another kind under these names.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if len(content) < _HEADER_BYTES or order is None:
        raise Mat5Error("it has no header of MATLAB's level 5")
    version = struct.unpack_from(f"{order}H", content, 124)[0] >> 8
    if version != 1:
        hint = " (HDF5); save it again with -v7" if version == 2 else ""
        raise Mat5Error(f"it is of MATLAB 7.3 or later{hint}")
    room = min(MOST_BYTES, _MOST_RATIO * len(content) + 2**20)
    reader, found = _Reader(memoryview(content)[_HEADER_BYTES:], order), {}
    while reader.left:
        kind, data = reader.element()
        if kind == _COMPRESSED:
            data, room = _unpacked(data, room)
            kind, data = _Reader(data, order).element()
        if kind != _MATRIX:
            raise Mat5Error(f"it has an element of kind {kind} where a variable should be")
        name, value = _matrix(data, order, names)
        if name in names:
            found[name] = value
    return found


def _unpacked(data: memoryview, room: int) -> tuple[memoryview, int]:
    unpack = zlib.decompressobj()
    try:
        content = unpack.decompress(data, room)
    except zlib.error as error:
        raise Mat5Error(str(error)) from error
    if not unpack.eof:
        raise Mat5Error("a packed variable is cut short, or unpacks to far more than it could hold")
    return memoryview(content), room - len(content)


@dataclasses.dataclass
class _Reader:
    """Elements, one behind the other."""

    data: memoryview
    order: str
    at: int = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def element(self) -> tuple[int, memoryview]:
        """(kind, content) of the next one. Short ones hold their content in the tag's second half."""
        if self.left < 8:
            raise Mat5Error("it is cut short")
        kind, size = struct.unpack_from(f"{self.order}2I", self.data, self.at)
        start, room = self.at + 8, self.left - 8
        if kind >> 16:
            kind, size, start, room = kind & 0xFFFF, kind >> 16, self.at + 4, 4
        if size > room:
            raise Mat5Error(f"it is cut short: {size} bytes are announced, there is room for {room}")
        end = start + size
        self.at = min(end if kind == _COMPRESSED else end + -end % 8, len(self.data))
        return kind, self.data[start:end]

    def expect(self, wanted: int, what: str) -> memoryview:
        kind, data = self.element()
        if kind != wanted:
            raise Mat5Error(f"the {what} of a variable are of kind {kind}")
        return data


def _matrix(data: memoryview, order: str, names: Collection[str] | None, depth: int = 0):
    """(name, value) of a variable; the value is None where `names` does not ask for it."""
    if not len(data):
        return "", np.zeros((0, 0))
    reader = _Reader(data, order)
    flags = reader.expect(_UINT32, "flags")
    dimensions = reader.expect(_INT32, "dimensions")
    name = bytes(reader.expect(_INT8, "letters")).decode("latin-1")
    if names is not None and name not in names:
        return name, None
    if len(flags) != 8 or len(dimensions) % 4 or not 8 <= len(dimensions) <= 4 * _MOST_DIMENSIONS:
        raise Mat5Error("a variable has malformed flags or dimensions")
    shape = tuple(np.frombuffer(dimensions, f"{order}i4").tolist())
    if min(shape) < 0:
        raise Mat5Error(f"a variable has the shape {shape}")
    flag = struct.unpack_from(f"{order}I", flags)[0]
    if flag & _COMPLEX:
        raise Mat5Error("a variable has complex numbers")
    return name, _value(reader, flag & 0xFF, shape, depth)


def _value(reader: _Reader, kind: int, shape: tuple[int, ...], depth: int) -> np.ndarray:
    count = math.prod(shape)
    if kind == _CELL and depth == 0:
        if count > reader.left // 8:
            raise Mat5Error(f"{count} cells are announced where {reader.left} bytes are left")
        cells = np.empty(count, object)
        for place in range(count):
            cells[place] = _matrix(reader.expect(_MATRIX, "cells"), reader.order, None, depth + 1)[1]
        return cells.reshape(shape, order="F")
    if kind == _CHAR:
        return np.array(_text(reader))
    if kind not in _CLASSES:
        raise Mat5Error(f"a variable is of class {kind}: neither numbers, a text, nor cells of these")
    stored, data = reader.element()
    if stored not in _NUMBERS:
        raise Mat5Error(f"numbers are stored as kind {stored}")
    dtype = np.dtype(reader.order + _NUMBERS[stored])
    if len(data) != count * dtype.itemsize:
        raise Mat5Error(f"{len(data)} bytes of numbers do not fill the shape {shape}")
    values = np.frombuffer(data, dtype).reshape(shape, order="F")
    with np.errstate(invalid="ignore"):
        return values.astype(_CLASSES[kind])


def _text(reader: _Reader) -> str:
    stored, data = reader.element()
    if stored not in _TEXTS:
        raise Mat5Error(f"letters are stored as kind {stored}")
    encoding = _TEXTS[stored]
    if encoding == "utf-16":
        encoding += "-le" if reader.order == "<" else "-be"
    return bytes(data).decode(encoding, errors="replace")
