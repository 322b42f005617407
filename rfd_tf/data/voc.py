"""PASCAL VOC in the devkit's own folders: pictures, the objects in them, multi-label targets.

Reference: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, and the devkit.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from rfd_tf.data.image_files import ImageFiles

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
PRESENT, ABSENT, ONLY_DIFFICULT = 1, -1, 0  # of a class in a picture, as in the devkit's lists

_NAME = re.compile(r"[\w.-]+")
_MAX_ANNOTATION_BYTES = 10_000_000  # the largest of VOC has some 20,000


class VocError(ValueError):
    """An annotation that cannot be used; its message names the file."""


@dataclasses.dataclass(frozen=True)
class Annotation:
    """The n objects of a picture.

    Attributes:
        width, height: of the picture in pixels.
        boxes: float32 [n, 4] of x1, y1, x2, y2, pixels counted from 0, both corners inclusive: a box is
            x2 - x1 + 1 wide. (The files count from 1.)
        labels: int64 [n], places in `VOC_CLASSES`.
        difficult: bool [n]; objects that evaluations do not ask for.
    """

    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


class VocDevkit(ImageFiles):
    """The pictures of one list of the devkit, `ImageSets/Main/SPLIT.txt`, in its order.

    `labels` is None, since pictures have many; see `targets`.

    Args:
        root: the folder of a year (`VOC2007`, with `Annotations`, `ImageSets`, `JPEGImages`), or one that
            holds it (`VOCdevkit`).
        split: "train", "val", "trainval", "test" or another list that is there.
        year: "2007" ..., of the folder to be taken where `root` holds it.

    Attributes:
        names: N names, such as "000005".
        annotations: N `Annotation`s.

    Raises:
        FileNotFoundError: if the folder, the list, a picture or an annotation is missing.
        VocError: on a broken annotation, one of another format, an unknown class, or a box that is not within
            its picture; all name the file. (The devkit's tools do not clip such boxes, nor does this.)

    Example: `VocDevkit("VOCdevkit", "trainval").targets`
    """

    def __init__(self, root: str | os.PathLike, split: str = "trainval", year: str = "2007"):
        folder = _year_folder(Path(root), year)
        self.names = _listed(folder / "ImageSets" / "Main" / f"{split}.txt")
        self.annotations = tuple(
            read_annotation(folder / "Annotations" / f"{name}.xml") for name in self.names
        )
        files = [f"JPEGImages/{name}.jpg" for name in self.names]
        if missing := [file for file in files if not (folder / file).is_file()]:
            raise FileNotFoundError(
                f"No picture at {folder / missing[0]} ({len(missing)} of {len(files)} missing)"
            )
        super().__init__(folder, files, None, VOC_CLASSES)

    @property
    def targets(self) -> np.ndarray:
        """int8 [N, 20]: 1 where a class is in the picture, -1 where not, 0 where only difficult ones are."""
        return multi_label_targets(self.annotations)


def multi_label_targets(annotations: Sequence[Annotation]) -> np.ndarray:
    """The classes of pictures, int8 [N, 20], as of `VocDevkit.targets`."""
    targets = np.full((len(annotations), len(VOC_CLASSES)), ABSENT, "int8")
    for row, annotation in zip(targets, annotations, strict=True):
        row[annotation.labels] = ONLY_DIFFICULT
        row[annotation.labels[~annotation.difficult]] = PRESENT
    return targets


def box_error(number: int, name: str, corners: Sequence[float], width: int, height: int) -> str | None:
    """Why the box of a picture's object `number` is refused; None if it is within. Pixels count from 1."""
    x1, y1, x2, y2 = corners
    if 1 <= x1 <= x2 <= width and 1 <= y1 <= y2 <= height:
        return None
    return (
        f"the box of object {number} ({name}; {x1:g}, {y1:g}, {x2:g}, {y2:g}) is not within the "
        f"picture of {width} x {height} pixels"
    )


def read_annotation(path: str | os.PathLike) -> Annotation:
    """An annotation file of the devkit; see `VocDevkit` for what it raises. Entities are not expanded."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No annotation at {path}")
    if path.stat().st_size > _MAX_ANNOTATION_BYTES:
        raise VocError(f"{path} has {path.stat().st_size} bytes, more than any annotation")
    try:
        return _annotation(fromstring(path.read_bytes()))
    except ParseError as error:
        raise VocError(f"{path} is no well-formed XML: {error}") from None
    except DefusedXmlException as error:
        raise VocError(f"{path} declares entities, which are not read: {error}") from None
    except VocError as error:
        raise VocError(f"{path}: {error}") from None
    except (LookupError, ValueError) as error:  # of the encoding that the file names
        raise VocError(f"{path} cannot be read: {error}") from None


def _annotation(root: Element) -> Annotation:
    width, height = (int(_number(root, f"size/{side}")) for side in ("width", "height"))
    objects = root.findall("object")
    boxes = np.zeros((len(objects), 4), "float32")
    labels, difficult = np.zeros(len(objects), "int64"), np.zeros(len(objects), bool)
    for place, found in enumerate(objects):
        name = _text(found, "name")
        if name not in VOC_CLASSES:
            raise VocError(f"object {place + 1} is a {name!r}, which is no class of VOC")
        corners = [_number(found, f"bndbox/{end}") for end in ("xmin", "ymin", "xmax", "ymax")]
        if problem := box_error(place + 1, name, corners, width, height):
            raise VocError(problem)
        boxes[place] = np.subtract(corners, 1)
        labels[place] = VOC_CLASSES.index(name)
        difficult[place] = found.find("difficult") is not None and _number(found, "difficult") != 0
    return Annotation(width, height, boxes, labels, difficult)


def _text(element: Element, path: str) -> str:
    found = element.find(path)
    if found is None or not (found.text or "").strip():
        raise VocError(f"there is no {path}" + (f" in an <{element.tag}>" if "/" not in path else ""))
    return found.text.strip()


def _number(element: Element, path: str) -> float:
    text = _text(element, path)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise VocError(f"{path} is {text!r}, no number")
    return value


def _year_folder(root: Path, year: str) -> Path:
    for folder in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if (folder / "ImageSets" / "Main").is_dir():
            return folder
    raise FileNotFoundError(f"No ImageSets/Main in {root}, nor in VOC{year} in it: is it a VOC devkit?")


def _listed(path: Path) -> tuple[str, ...]:
    """The names in a list; what follows a name in its line (1, -1 or 0 in lists of classes) is ignored."""
    if not path.is_file():
        there = sorted(file.stem for file in path.parent.glob("*.txt") if "_" not in file.stem)
        raise FileNotFoundError(f"No list at {path}; there are {', '.join(there) or 'none'}")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    names = tuple(line.split()[0] for line in lines if line.strip())
    for name in names:
        if not _NAME.fullmatch(name):
            raise VocError(f"{path} lists {name!r}, which is no name of a picture")
    if not names:
        raise VocError(f"{path} lists no pictures")
    if len(set(names)) < len(names):
        raise VocError(f"{path} lists {max(names, key=names.count)} twice")
    return names
