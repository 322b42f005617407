"""Proposals in MATLAB files, as R-CNN's and Fast R-CNN's authors gave them away."""

import os
from pathlib import Path

import numpy as np

from rfd_tf.proposals.mat5 import Mat5Error, parse_mat5
from rfd_tf.proposals.selective_search import ProposalError

CONVENTIONS = ("voc_release", "xyxy_from_0")
_MAX_BYTES = 2**30


def read_mat(path: str | os.PathLike, convention: str = "", name: str | None = None) -> dict[str, np.ndarray]:
    """Proposals by the name of the picture, each float32 [P, 4].

    Two conventions are in use:

    - "voc_release": cells `boxes`, an array [P, 4] for each picture of y1, x1, y2, x2 counted from 1, and
      `images` with their names: VOC's releases, as Fast R-CNN's own reader takes them.
    - "xyxy_from_0": one array `boxes` [P, 4] of x1, y1, x2, y2 counted from 0, of one picture.

    Args:
        path: the file, of MATLAB 5 to 7.2.
        convention: one of them; by default cells are taken for the first and an array for the second.
        name: of the picture where the file does not say; by default the file's name without `_boxes.mat`.

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
    if path.stat().st_size > _MAX_BYTES:
        raise ProposalError(f"{path} has {path.stat().st_size} bytes, more than {_MAX_BYTES}")
    try:
        return parse_mat5(path.read_bytes(), ("boxes", "images"))
    except Mat5Error as error:
        raise ProposalError(f"{path} is no MATLAB file that can be read: {error}") from None


def _names(content: dict[str, np.ndarray], count: int, path: Path) -> list[str]:
    cells = content.get("images")
    if cells is None or cells.size != count:
        named = 0 if cells is None else cells.size
        raise ProposalError(f"{path} has boxes of {count} pictures and {named} names")
    names = ["".join(np.ravel(cell).astype(str)) for cell in cells.ravel()]
    if len(set(names)) < count:
        raise ProposalError(f"{path} names a picture twice: {max(names, key=names.count)!r}")
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
