"""Sources by name, or by what a location holds."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from rfd_tf.data.arrays import digits, load_npz, npz_names
from rfd_tf.data.image_folder import (
    DECODABLE,
    UNDECODABLE,
    FlatFolder,
    ImageFolder,
    holds_image,
    list_folder,
)
from rfd_tf.data.image_list import ImageList, places205
from rfd_tf.data.prepared import SETTINGS_FILE, PreparedSource
from rfd_tf.data.source import Source
from rfd_tf.data.tfds_source import TfdsSource, VocTfds
from rfd_tf.data.voc import VOC_CLASSES, VocDevkit, VocSubset, checked_classes

VOC_SOURCES = ("voc_devkit", "voc_tfds")

VocSource = VocDevkit | VocTfds | VocSubset


@dataclasses.dataclass(frozen=True)
class VocData:
    """Which images of PASCAL VOC, or of one's own in its format.

    Attributes:
        source: "voc_devkit": the devkit's folders, below `root`; "voc_tfds": TFDS's `voc/YEAR`, prepared in
            `root`, or in TFDS's default folder where that is empty.
        root: see `source`.
        split: "train", "val", "trainval" or "test"; of the devkit also another list that is there.
        year: "2007" or "2012".
        limit: the first so many images; 0 for all.
        exif_orientation: whether boxes are in images that are turned as their EXIF says (of `VocTfds`).
        classes, boxes: as of `VocDevkit`. "voc_tfds" has VOC's classes.

    Raises:
        ValueError: on an unknown source, no `root` of the devkit, a negative `limit`, or other classes than
            VOC's from "voc_tfds".
    """

    source: str = "voc_devkit"
    root: str | os.PathLike = ""
    split: str = "trainval"
    year: str = "2007"
    limit: int = 0
    exif_orientation: bool = False
    classes: Sequence[str] = ()
    boxes: str = "strict"

    def __post_init__(self):
        if self.source not in VOC_SOURCES:
            raise ValueError(
                f"`source` must be one of {', '.join(VOC_SOURCES)}. Received: source={self.source!r}"
            )
        if self.limit < 0:
            raise ValueError(f"`limit` must not be negative. Received: limit={self.limit}")
        if self.source == "voc_devkit" and not os.fspath(self.root):
            raise ValueError("source='voc_devkit' needs a `root`: the folder VOCdevkit, or VOC2007 in it")
        if self.source == "voc_tfds" and checked_classes(self.classes) != VOC_CLASSES:
            raise ValueError(f"source='voc_tfds' has VOC's classes. Received: classes={tuple(self.classes)}")


def open_voc(data: VocData) -> VocSource:
    """The images of one list, with `names`, `annotations`, `class_names` and `targets`.

    The log counts boxes that were clipped.

    Raises:
        FileNotFoundError, VocError, ValueError: those of `VocDevkit` and `VocTfds`.
    """
    opened: VocSource
    if data.source == "voc_tfds":
        exif = data.exif_orientation
        opened = VocTfds(data.root or None, data.split, data.year, data.boxes, exif_orientation=exif)
    else:
        opened = VocDevkit(data.root, data.split, data.year, data.classes, data.boxes)
    if 0 < data.limit < len(opened):
        opened = VocSubset(opened, range(data.limit))
    if note := clipping_note(opened):
        logging.warning("%s", note)
    return opened


def clipping_note(source) -> str:
    """How many boxes of a VOC source were clipped, for people; "" where none was, or of other sources."""
    found = [of.overhang for of in getattr(source, "annotations", ()) if of.overhang is not None]
    beyond = [overhang for overhang in found if overhang.any()]
    if not beyond:
        return ""
    return (
        f"{sum(map(np.count_nonzero, beyond))} of {sum(map(len, found))} boxes, in {len(beyond)} of "
        f"{len(source)} images of {source.name}, reached beyond their image, by up to "
        f"{max(overhang.max() for overhang in beyond):g} pixels, and were clipped to it"
    )


KINDS = (
    *("image_folder", "flat_folder", "image_list", "places205", "npz", "tfds", "digits", "prepared"),
    *VOC_SOURCES,
)


def open_source(kind: str, root: str | os.PathLike = "", split: str = "train", **options) -> Source:
    """Opens a source.

    Args:
        kind: one of
            `"image_folder"`: `root/split` if there is such a folder, else (train only) `root`; options of
                `ImageFolder`;
            `"flat_folder"`: the same, unlabelled; options of `FlatFolder`;
            `"image_list"`: images below `root`; the list is `list_file`, by default `root/SPLIT.txt`, else
                `root/SPLIT.csv`; options of `ImageList`;
            `"places205"`: `root` holds the lists and the images as their authors' archives unpack;
            `"npz"`: `root` is the file; `images_key` is `SPLIT_images` by default, `labels_key`
                `SPLIT_labels` if there is such an array; options of `load_npz`;
            `"tfds"`: `root` is TFDS's data_dir; the option `name` is the builder; options of `TfdsSource`;
            `"prepared"`: what `rfd prepare` wrote, found as an `"image_folder"` is; options of
                `PreparedSource`;
            `"voc_devkit"`, `"voc_tfds"`: as of `VocData`, with its other fields;
            `"digits"`: scikit-learn's scans, no `root`.
        root: see `kind`.
        split: which part of the data.
        **options: passed on to the source.

    Raises:
        ValueError: on an unknown `kind`, or where a needed `root` or `name` is missing.
        Exception: those of the source.

    Example: `open_source("npz", "cifar10.npz", split="test")`
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}. Received: kind={kind!r}")
    if kind == "digits":
        return digits(split, **options)
    if kind in VOC_SOURCES:
        return open_voc(VocData(kind, root, split, **options))
    if kind == "tfds":
        if "name" not in options:
            raise ValueError('kind="tfds" needs the builder\'s `name`, such as name="imagenet2012"')
        return TfdsSource(root=root or None, split=split, **options)
    if not os.fspath(root):
        raise ValueError(f"kind={kind!r} needs a `root`")
    if kind == "npz":
        labels = f"{split}_labels"
        keys = {"images_key": f"{split}_images", "labels_key": labels if labels in npz_names(root) else None}
        return load_npz(root, **keys | options)
    if kind == "places205":
        return places205(root, split, **options)
    if kind == "image_list":
        return ImageList(root, **{"list_file": _split_list(Path(root), split)} | options)
    folder = _split_folder(Path(root), split)
    if kind == "prepared":
        return PreparedSource(folder, **options)
    return ImageFolder(folder, **options) if kind == "image_folder" else FlatFolder(folder, **options)


def _split_list(root: Path, split: str) -> Path:
    text, table = root / f"{split}.txt", root / f"{split}.csv"
    return table if table.is_file() and not text.is_file() else text


def _split_folder(root: Path, split: str) -> Path:
    if (root / split).is_dir():
        return root / split
    if split == "train":
        return root
    raise FileNotFoundError(f"{root} holds no folder for split={split!r}")


IMAGES_HELP = (
    "a folder of images, of one folder per class, or that `rfd prepare` wrote, a list of images, or an "
    ".npz file"
)


def open_images(location: str | os.PathLike, root: str | os.PathLike = "", key: str = "") -> Source:
    """Opens images without refusing any by its name or for being missing: that is found when they are read.

    Args:
        location: one of
            a folder that `rfd prepare` wrote: a `PreparedSource`;
            a folder with at least two folders in it, each with images below, and no image beside them:
                an `ImageFolder`, labelled by them;
            another folder: a `FlatFolder`;
            a text file: an `ImageList` (`.npz` and images' endings excepted);
            an `.npz` file.
        root: of an `ImageList`, by default its folder.
        key: of an `.npz` file: which array; by default `images`, or the one that ends in `images`. The labels
            are the array of that name with `labels`, if there is one.

    Raises:
        FileNotFoundError: if there is nothing, or no image.
        ValueError: on another file, a malformed list, or an unclear `key`.
    """
    path = Path(location)
    if not path.exists():
        raise FileNotFoundError(f"No images at {path}: it must be {IMAGES_HELP}")
    if (path / SETTINGS_FILE).is_file():
        return PreparedSource(path, on_error="skip")
    if path.is_dir():
        kind = ImageFolder if _has_class_folders(path) else FlatFolder
        return kind(path, on_error="skip")
    if path.suffix.lower() == ".npz":
        return _open_npz(path, key)
    if path.name.lower().endswith(DECODABLE + UNDECODABLE):
        raise ValueError(f"{path} is one image: give {IMAGES_HELP}")
    return ImageList(root or path.parent, path, every_class=False, on_error="skip")


def source_kind(path: Path) -> str:
    """The `kind` of `open_source` that images at a path are of, as `open_images` sees it.

    Raises:
        FileNotFoundError: if there is nothing.
    """
    if not path.exists():
        raise FileNotFoundError(f"No images at {path}: it must be {IMAGES_HELP}")
    if path.is_dir():
        below = path / "train" if (path / "train").is_dir() else path
        if (below / SETTINGS_FILE).is_file():
            return "prepared"
        return "image_folder" if _has_class_folders(below) else "flat_folder"
    return "npz" if path.suffix.lower() == ".npz" else "image_list"


def _has_class_folders(root: Path) -> bool:
    """Whether `root` holds two folders or more, images below each, and no image beside them."""
    found = list_folder(os.fspath(root))
    return (
        not found.images
        and len(found.folders) > 1
        and all(holds_image(os.path.join(root, name)) for name in found.folders)
    )


def _open_npz(path: Path, key: str) -> Source:
    names = npz_names(path)
    if not key:
        found = [name for name in names if name.endswith("images")]
        if "images" not in found and len(found) != 1:
            raise ValueError(f"{path}: which array? It has {', '.join(sorted(names))}. Give --npz_key")
        key = "images" if "images" in found else found[0]
    labels = f"{key.removesuffix('images')}labels"
    return load_npz(path, images_key=key, labels_key=labels if labels in names else None)
