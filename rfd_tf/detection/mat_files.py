"""Region proposals in MATLAB files, by a reader of numbers, cells and texts in level 5 files.

SciPy's reader is not used: a crafted file makes it read memory outside the file's content.

Reference: MathWorks, "MAT-File Format", R2023b, chapter 1.
"""

import dataclasses
import math
import os
import struct
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from rfd_tf.detection.proposals import ProposalError

MOST_BYTES = 2**30  # of the file, and of all that is unpacked
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
    """Bytes that are not such a file, or hold something else."""


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
    """Consecutive elements."""

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


CONVENTIONS = ("voc_release", "xyxy_from_0")


def read_mat(path: str | os.PathLike, convention: str = "", name: str | None = None) -> dict[str, np.ndarray]:
    """Proposals by the name of the image, each float32 [P, 4].

    Two conventions are in use:

    - "voc_release": cells `boxes`, an array [P, 4] for each image of y1, x1, y2, x2 counted from 1, and
      `images` with their names: VOC's releases, as Fast R-CNN's own reader takes them.
    - "xyxy_from_0": one array `boxes` [P, 4] of x1, y1, x2, y2 counted from 0, of one image.

    Args:
        path: the file, of MATLAB 5 to 7.2.
        convention: one of them; by default cells are taken for the first and an array for the second.
        name: of the image where the file does not say; by default the file's name without `_boxes.mat`.

    Raises:
        FileNotFoundError: if there is no such file.
        ProposalError: if it cannot be read or holds something else, boxes with corners exchanged or
            below the first pixel included; the message names the file.
        ValueError: on an unknown convention.
    """
    path = Path(path)
    if convention and convention not in CONVENTIONS:
        raise ValueError(f"`convention` must be one of {CONVENTIONS}. Received: {convention!r}")
    content = _load(path)
    boxes = content.get("boxes")
    if boxes is None:
        raise ProposalError(f"{path} has no `boxes`; it has {', '.join(content) or 'nothing'}")
    convention = convention or ("voc_release" if boxes.dtype == object else "xyxy_from_0")
    if (convention == "voc_release") != (boxes.dtype == object):
        kind = "cells" if boxes.dtype == object else "one array"
        raise ProposalError(f"`boxes` of {path} are {kind}, which the convention {convention!r} has not")
    if convention == "xyxy_from_0":
        name = path.stem.removesuffix("_boxes") if name is None else name
        return {name: _checked(boxes, path, name)}
    names = _names(content, boxes.size, path)
    return {
        name: _checked(_numbers(cell, path, name)[:, [1, 0, 3, 2]] - 1, path, name)
        for name, cell in zip(names, boxes.ravel(), strict=True)
    }


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"No file of proposals at {path}")
    if path.stat().st_size > MOST_BYTES:
        raise ProposalError(f"{path} has {path.stat().st_size} bytes, more than {MOST_BYTES}")
    try:
        return parse_mat5(path.read_bytes(), ("boxes", "images"))
    except Mat5Error as error:
        raise ProposalError(f"{path} cannot be read as a MATLAB file: {error}") from None


def _names(content: dict[str, np.ndarray], count: int, path: Path) -> list[str]:
    cells = content.get("images")
    if cells is None or cells.size != count:
        named = 0 if cells is None else cells.size
        raise ProposalError(f"{path} has boxes of {count} images and {named} names")
    names = ["".join(np.ravel(cell).astype(str)) for cell in cells.ravel()]
    if len(set(names)) < count:
        raise ProposalError(f"{path} names an image twice: {max(names, key=names.count)!r}")
    return names


def _numbers(cell, path: Path, name: str) -> np.ndarray:
    values = np.asarray(cell)
    if values.size == 0:
        return np.zeros((0, 4))
    if values.ndim != 2 or values.shape[1] != 4 or values.dtype.kind not in "iuf":
        found = f"{values.dtype} of shape {values.shape}"
        raise ProposalError(f"The boxes of {name} in {path} must be numbers [P, 4]; they are {found}")
    return values.astype("float64")


def _checked(values, path: Path, name: str) -> np.ndarray:
    boxes = _numbers(values, path, name)
    exchanged = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    bad = ~np.isfinite(boxes).all(axis=1) | (boxes[:, :2] < 0).any(axis=1) | exchanged
    if bad.any():
        worst = int(bad.argmax())
        raise ProposalError(
            f"Box {worst + 1} of {name} in {path} is x1, y1, x2, y2 = {boxes[worst].tolist()}, "
            "counted from 0: is that the right convention?"
        )
    return boxes.astype("float32")
