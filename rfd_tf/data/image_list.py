"""Images that a text file lists, Places205's among them."""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfd_tf.data.image_folder import ImageFiles

_SPLITS = ("train", "training", "val", "validation", "test")
SAMPLE = 100  # listed files that are looked for when a list is opened
_LABEL = re.compile(r"(?s)(.*?\S)\s*([,\s])\s*([+-]?\d{1,9})")


class ImageList(ImageFiles):
    """Images below `root` in the order of a text file: a path a row, with a label or without.

    Rows are `path label`, `path,label` (with CSV's quotes where the path has a comma) or `path`; empty rows
    are passed over. The first row decides: where it ends in a comma, space or tab and an integer, all must.
    The instance index is the row's position. A class is named after its folder where each class has one
    folder of its own: `n01440764` for both `train/n01440764/1.jpg` and `val/n01440764/2.jpg`.

    Opening looks for a sample of 100 files, since looking for millions takes minutes on a network disk. What
    else is missing is found by `find_bad_images`, or when it is read.

    Args:
        root: folder that the paths are relative to.
        list_file: the list, UTF-8 (other bytes are kept as they are).
        labelled: False takes every row as a path, whatever it ends in.
        every_class: whether the labels must be 0, 1, ... without a gap.
        on_error: as in `ImageFolder`; `"skip"` also accepts that some images of the sample are missing.

    Raises:
        FileNotFoundError: if there is no such list or folder, or an image of the sample is missing.
        ValueError: on a malformed or repeated row, a path that is absolute or leads out with `..`, or labels
            that do not fit, naming the list and the line.

    Example: `ImageList("images", "train.txt")`
    """

    def __init__(
        self,
        root: str | os.PathLike,
        list_file: str | os.PathLike,
        labelled: bool = True,
        every_class: bool = True,
        on_error: str = "raise",
    ):
        root, list_file = Path(root), Path(list_file)
        if not list_file.is_file():
            raise FileNotFoundError(f"No list of images at {list_file}")
        if not root.is_dir():
            raise FileNotFoundError(f"No folder of images at {root}")
        text = list_file.read_text(encoding="utf-8-sig", errors="surrogateescape")
        files, labels = parse_image_list(text, str(list_file), labelled, every_class)
        class_names = None if labels is None else _class_names(files, labels)
        super().__init__(root, files, labels, class_names, on_error)
        self.list_file = list_file
        _look_for_sample(root, files, list_file, on_error)


def parse_image_list(
    text: str, name: str, labelled: bool = True, every_class: bool = True
) -> tuple[list[str], np.ndarray | None]:
    """The paths and, where the rows carry any, the labels (int64) of a list; arguments as of `ImageList`.

    Its ValueErrors call the list `name`.
    """
    rows = [(line, row) for line, row in enumerate(text.split("\n"), 1) if row.strip()]
    if not rows:
        raise ValueError(f"{name} is empty: it needs one image a row")
    first = _LABEL.fullmatch(rows[0][1].rstrip()) if labelled else None
    files: list[str] = []
    labels: list = []
    for line, row in rows:
        row = row.rstrip("\r")
        path, label = (row, None) if first is None else _path_and_label(row, first[2], f"{name}:{line}")
        files.append(_relative(path, f"{name}:{line}"))
        labels.append(label)
    lines = [line for line, _ in rows]
    _refuse_repeated(files, lines, name)
    if first is None:
        return files, None
    return files, _checked_labels(labels, lines, name, every_class)


def _path_and_label(row: str, separator: str, where: str) -> tuple[str, int]:
    if separator == ",":
        fields = next(csv.reader([row], skipinitialspace=True))
    else:
        fields = row.strip().rsplit(maxsplit=1)
    if len(fields) != 2 or not re.fullmatch(r"\s*[+-]?\d{1,9}\s*", fields[1]):
        shown = "a comma" if separator == "," else "a space"
        raise ValueError(f"{where}: a row must be a path, {shown} and an integer. Received: {row!r}")
    return fields[0], int(fields[1])


def _relative(path: str, where: str) -> str:
    """`path` if it stays below the root."""
    if path.startswith("/") or (".." in path and ".." in path.split("/")):
        raise ValueError(f"{where}: a path must be relative, without '..'. Received: {path!r}")
    if not path.strip() or "\0" in path:
        raise ValueError(f"{where}: {path!r} is not a path")
    return path.removeprefix("./")


def _refuse_repeated(files: Sequence[str], lines: Sequence[int], name: str) -> None:
    if len(set(files)) == len(files):
        return
    seen: dict[str, int] = {}
    for line, file in zip(lines, files, strict=True):
        if file in seen:
            raise ValueError(f"{name}:{line}: {file!r} is already in line {seen[file]}")
        seen[file] = line


def _checked_labels(labels: list[int], lines: Sequence[int], name: str, every_class: bool) -> np.ndarray:
    if min(labels) < 0:
        line = lines[labels.index(min(labels))]
        raise ValueError(f"{name}:{line}: a label must not be negative. Received: {min(labels)}")
    present = set(labels)
    if every_class and len(present) <= max(present):
        absent = next(label for label in range(max(present)) if label not in present)
        line = lines[labels.index(max(labels))]
        raise ValueError(
            f"{name}: labels must be 0, 1, ... without a gap. Line {line} has {max(labels)}, and no line "
            f"has {absent}"
        )
    return np.asarray(labels, dtype="int64")


def _class_names(files: Sequence[str], labels: np.ndarray) -> tuple[str, ...] | None:
    """Each class's folder without the split's; None where one has several, shares one, or is absent."""
    folders = {(label, os.path.dirname(file)) for label, file in zip(labels.tolist(), files, strict=True)}
    names = dict(folders)
    count = int(labels.max()) + 1
    unique = len(folders) == len(names) == len(set(names.values())) == count
    if not unique or "" in names.values():
        return None
    below = {label: name.partition("/") for label, name in names.items()}
    if all(first in _SPLITS and rest for first, _, rest in below.values()):
        names = {label: rest for label, (_, _, rest) in below.items()}
    return tuple(names[label] for label in range(count))


def _look_for_sample(root: Path, files: Sequence[str], list_file: Path, on_error: str) -> None:
    rows = np.unique(np.linspace(0, len(files) - 1, SAMPLE).astype("int64")).tolist()
    missing = [row for row in rows if not (root / files[row]).is_file()]
    if missing and (on_error == "raise" or len(missing) == len(rows)):
        raise FileNotFoundError(
            f"{list_file} lists {files[missing[0]]!r}, and there is no {root / files[missing[0]]} "
            f"({len(missing)} of the {len(rows)} files looked for are missing)"
        )


IMAGES = "data/vision/torralba/deeplearning/images256"
LISTS = "trainvalsplit_places205"
SPLITS = ("train", "val")


def places205(root: str | os.PathLike, split: str = "train", on_error: str = "raise") -> ImageList:
    """The 205 scene classes of Zhou et al., "Learning Deep Features for Scene Recognition", NIPS 2014.

    The lists are `root/trainvalsplit_places205/{train,val}_places205.csv`, of rows `path label` split by a
    space; the images lie below `root/data/vision/torralba/deeplearning/images256/`. The order is that of
    the list.

    Args:
        root: folder that holds both.
        split: `"train"` or `"val"`.
        on_error: as in `ImageList`.

    Raises:
        ValueError: on another split, and as `ImageList`.
        FileNotFoundError: as `ImageList`.
    """
    if split not in SPLITS:
        raise ValueError(f"Places205 has the splits {', '.join(SPLITS)}. Received: split={split!r}")
    root = Path(root)
    source = ImageList(root / IMAGES, root / LISTS / f"{split}_places205.csv", on_error=on_error)
    if source.labels is None:
        raise ValueError(f"{source.list_file}:1: a row must be a path, a space and a label")
    source.name = f"places205/{split}"
    return source
