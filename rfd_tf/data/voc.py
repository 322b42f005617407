"""PASCAL VOC in the devkit's own folders: images, the objects in them, multi-label targets.

Reference: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, and the devkit.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from rfd_tf.data.image_folder import DECODABLE, ImageFiles
from rfd_tf.data.source import Subset

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
PRESENT, ABSENT, ONLY_DIFFICULT = 1, -1, 0  # of a class in an image, as in the devkit's lists
FOUND = ("*",)  # for `classes`: the names that the annotations have, sorted
BOXES = ("strict", "clip")

_NAME = re.compile(r"[\w.-]+")
_MAX_ANNOTATION_BYTES = 10_000_000  # the largest of VOC has some 20,000
_NOT_DIFFICULT = ("", "unspecified", "false")  # what other tools than the devkit's write besides numbers
_CLASS_NAME = re.compile(r"[^\s./\\][^/\\\x00-\x1f\x7f]{0,99}")  # results have it in names of their files


class VocError(ValueError):
    """An annotation that cannot be used; its message names the file."""


@dataclasses.dataclass(frozen=True)
class Annotation:
    """The n objects of an image.

    Attributes:
        width, height: of the image in pixels.
        boxes: float32 [n, 4] of x1, y1, x2, y2, pixels counted from 0, both corners inclusive: a box is
            x2 - x1 + 1 wide. (The files count from 1.)
        labels: int64 [n], places in the classes of the source, `VOC_CLASSES` unless it has its own.
        difficult: bool [n]; objects that evaluations do not ask for.
        overhang: float32 [n], pixels that each box reached beyond the image before it was clipped; None
            where boxes are not clipped.
    """

    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    overhang: np.ndarray | None = None


class VocDevkit(ImageFiles):
    """The images of one list, `ImageSets/Main/SPLIT.txt`, in its order: of VOC, or own ones in its format.
    `labels` is None, since images have many; see `targets`.

    Args:
        root: the folder of a year (`VOC2007`, with `Annotations`, `ImageSets`, `JPEGImages`), or one that
            holds it (`VOCdevkit`).
        split: "train", "val", "trainval", "test" or another list that is there.
        year: "2007" ..., of the folder to be taken where `root` holds it.
        classes: names of the C classes, in their order; () for VOC's 20, `("*",)` for all names that the
            annotations of this list have, sorted.
        boxes: "strict" (or "") refuses a box that is not within its image, "clip" moves its corners into
            the image, as for tools that count pixels from 0. One with no part of the image is refused.

    Attributes:
        names: N names, such as "000005".
        annotations: N `Annotation`s.

    Raises:
        FileNotFoundError: if the folder, the list, an image or an annotation is missing.
        VocError: on a broken annotation, one of another format, a class that is not among `classes`, or a box
            that is not within its image; all name the file.
        ValueError: on names of classes that are empty, come twice or cannot be part of a file's name, or
            other `boxes`.

    Example: `VocDevkit("VOCdevkit", "trainval").targets`
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "trainval",
        year: str = "2007",
        classes: Sequence[str] = (),
        boxes: str = "strict",
    ):
        classes = checked_classes(classes)
        check_boxes(boxes)
        folder = _year_folder(Path(root), year)
        self.names = _listed(folder / "ImageSets" / "Main" / f"{split}.txt")
        paths = [folder / "Annotations" / f"{name}.xml" for name in self.names]
        if classes == FOUND:
            classes = _names_in(paths)
        self.annotations = tuple(read_annotation(path, classes, boxes) for path in paths)
        files = [_image_of(folder, name) for name in self.names]
        if missing := [file for file in files if not (folder / file).is_file()]:
            raise FileNotFoundError(
                f"No image at {folder / missing[0]} ({len(missing)} of {len(files)} missing)"
            )
        super().__init__(folder, files, None, classes)

    @property
    def targets(self) -> np.ndarray:
        """int8 [N, C]: 1 where a class is in the image, -1 where not, 0 where only difficult ones are."""
        return multi_label_targets(self.annotations, self.num_classes)


def multi_label_targets(annotations: Sequence[Annotation], num_classes: int) -> np.ndarray:
    """The classes of images, int8 [N, num_classes], as of `VocDevkit.targets`."""
    targets = np.full((len(annotations), num_classes), ABSENT, "int8")
    for row, annotation in zip(targets, annotations, strict=True):
        row[annotation.labels] = ONLY_DIFFICULT
        row[annotation.labels[~annotation.difficult]] = PRESENT
    return targets


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, those of VOC for (); ValueError on what `VocDevkit` refuses."""
    names = (classes,) if isinstance(classes, str) and classes else tuple(classes)
    if not names or names == FOUND:
        return names or VOC_CLASSES
    for name in names:
        if not isinstance(name, str) or not _CLASS_NAME.fullmatch(name):
            raise ValueError(
                "`classes` must be names of up to 100 characters without slashes, which do not begin with a "
                f"dot or a space. Received: {name!r}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"`classes` has {max(names, key=names.count)!r} twice")
    return names


def check_boxes(boxes: str) -> None:
    """Raise ValueError where `VocDevkit` would."""
    if boxes and boxes not in BOXES:
        raise ValueError(f"`boxes` must be one of {', '.join(BOXES)}. Received: boxes={boxes!r}")


def boxes_within(
    corners: np.ndarray, names: Sequence[str], width: int, height: int, boxes: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """The boxes of an image's objects, clipped if they are to be, and their `Annotation.overhang`.

    Args:
        corners: float64 [n, 4] of x1, y1, x2, y2; pixels count from 1.
        names: classes of the objects, for the error.
        width, height: of the image.
        boxes: as of `VocDevkit`.

    Raises:
        VocError: on a box that is not within the image, or has no part of it.
    """
    highest = np.array([width, height, width, height], "float64")
    clipped = np.clip(corners, 1, highest)
    overhang = np.abs(corners - clipped).max(axis=1, initial=0)
    # Corners exchanged, or no part of the image.
    hopeless = np.asarray(~(corners[:, :2] <= corners[:, 2:]).all(axis=1))
    hopeless |= (corners[:, 2:] < 1).any(axis=1) | (corners[:, :2] > highest[:2]).any(axis=1)
    bad = hopeless if boxes == "clip" else hopeless | (overhang > 0)
    if bad.any():
        row = int(bad.argmax())
        x1, y1, x2, y2 = corners[row]
        hint = "" if hopeless[row] else "; boxes='clip' would clip it"
        raise VocError(
            f"the box of object {row + 1} ({names[row]}; {x1:g}, {y1:g}, {x2:g}, {y2:g}) is not within the "
            f"image of {width} x {height} pixels{hint}"
        )
    return (clipped, overhang.astype("float32")) if boxes == "clip" else (corners, None)


def read_annotation(
    path: str | os.PathLike, classes: Sequence[str] = VOC_CLASSES, boxes: str = "strict"
) -> Annotation:
    """An annotation file of the devkit; see `VocDevkit` for what it raises. Entities are not expanded."""
    with _named(path):
        return _annotation(_root(Path(path)), tuple(classes), boxes)


def _names_in(paths: Sequence[Path]) -> tuple[str, ...]:
    """The names of all objects in annotation files, sorted."""
    names = set()
    for path in paths:
        with _named(path):
            names |= {_text(found, "name") for found in _root(path).findall("object")}
    if not names:
        raise VocError(f"There is no object in the {len(paths)} annotations of {paths[0].parent}")
    try:
        return checked_classes(sorted(names))
    except ValueError as error:
        raise VocError(f"{paths[0].parent}: the names of objects cannot be classes: {error}") from None


def _root(path: Path) -> Element:
    if not path.is_file():
        raise FileNotFoundError(f"No annotation at {path}")
    if path.stat().st_size > _MAX_ANNOTATION_BYTES:
        raise VocError(f"it has {path.stat().st_size} bytes, more than any annotation")
    return fromstring(path.read_bytes())


@contextlib.contextmanager
def _named(path: str | os.PathLike) -> Iterator[None]:
    """Errors of reading an annotation name its file."""
    try:
        yield
    except ParseError as error:
        raise VocError(f"{path} is not well-formed XML: {error}") from None
    except DefusedXmlException as error:
        raise VocError(f"{path} declares entities, which are not read: {error}") from None
    except VocError as error:
        raise VocError(f"{path}: {error}") from None
    except (LookupError, ValueError) as error:  # of the encoding that the file names
        raise VocError(f"{path} cannot be read: {error}") from None


def _annotation(root: Element, classes: tuple[str, ...], boxes: str) -> Annotation:
    width, height = (int(_number(root, f"size/{side}")) for side in ("width", "height"))
    objects = root.findall("object")
    corners = np.zeros((len(objects), 4))
    labels, difficult = np.zeros(len(objects), "int64"), np.zeros(len(objects), bool)
    for place, found in enumerate(objects):
        name = _text(found, "name")
        if name not in classes:
            raise VocError(f"object {place + 1} is a {name!r}, which is {_stranger(classes)}")
        corners[place] = [_number(found, f"bndbox/{end}") for end in ("xmin", "ymin", "xmax", "ymax")]
        labels[place] = classes.index(name)
        difficult[place] = _is_difficult(found)
    names = [classes[label] for label in labels]
    corners, overhang = boxes_within(corners, names, width, height, boxes)
    return Annotation(width, height, (corners - 1).astype("float32"), labels, difficult, overhang)


def _stranger(classes: tuple[str, ...]) -> str:
    if classes == VOC_CLASSES:
        return (
            "not a class of VOC: name your own in `classes`, or take all that are found with classes=('*',)"
        )
    listed = ", ".join(classes[:10]) + ", ..." * (len(classes) > 10)
    return f"not one of the {len(classes)} classes ({listed})"


def _is_difficult(found: Element) -> bool:
    tag = found.find("difficult")
    text = "" if tag is None else (tag.text or "").strip().lower()
    return text not in _NOT_DIFFICULT and (text == "true" or _number(found, "difficult") != 0)


def _image_of(folder: Path, name: str) -> str:
    """The image's file below the folder: VOC's own are .jpg, other tools keep what they were given."""
    files = [f"JPEGImages/{name}{end}" for end in (*DECODABLE, *map(str.upper, DECODABLE))]
    return next((file for file in files if (folder / file).is_file()), files[0])


def _text(element: Element, path: str) -> str:
    found = (element.findtext(path) or "").strip()
    if not found:
        raise VocError(f"there is no {path}" + (f" in an <{element.tag}>" if "/" not in path else ""))
    return found


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
            raise VocError(f"{path} lists {name!r}, which is not a name of an image")
    if not names:
        raise VocError(f"{path} lists no images")
    if len(set(names)) < len(names):
        raise VocError(f"{path} lists {max(names, key=names.count)} twice")
    return names


class VocSubset(Subset):
    """A `Subset` of a VOC source, with what that has of the images: `names`, `annotations`, `targets`."""

    def __init__(self, source, indices: Sequence[int]):
        super().__init__(source, indices)
        self.names = tuple(source.names[row] for row in self.indices)
        self.annotations = tuple(source.annotations[row] for row in self.indices)

    @property
    def targets(self) -> np.ndarray:
        """As of `VocDevkit`."""
        return multi_label_targets(self.annotations, self.num_classes)
