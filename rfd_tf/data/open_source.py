"""Sources by name, PASCAL VOC's among them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from rfd_tf.data.arrays import digits, load_npz
from rfd_tf.data.image_folder import FlatFolder, ImageFolder
from rfd_tf.data.image_list import ImageList, places205
from rfd_tf.data.source import Source
from rfd_tf.data.tfds_source import TfdsSource
from rfd_tf.data.voc import (
    VOC_CLASSES,
    Annotation,
    VocDevkit,
    VocError,
    VocSubset,
    boxes_within,
    check_boxes,
    checked_classes,
    multi_label_targets,
)
from rfd_tf.image_header import encoded_size

SPLITS = {"train": "train", "val": "validation", "trainval": "train+validation", "test": "test"}

# TFDS keeps corners as float32 shares of the image's sides. Undone, they are off by less than this many
# decimals show, for sides below 8000 pixels: whole numbers come back as they were.
_DECIMALS = 3


class VocTfds(TfdsSource):
    """One split of TFDS's `voc/2007` or `voc/2012`, in the devkit's order, with what `VocDevkit` has.

    Args:
        root: TFDS's `data_dir`; None for its default.
        split: "train", "val", "trainval" or "test".
        year: "2007" or "2012".
        boxes: as of `VocDevkit`.
        name: of a builder with the features of TFDS's `voc`.
        download: whether to download and prepare what is not there.
        exif_orientation: whether boxes are in images that are turned as their EXIF says.

    Attributes:
        names: N names, such as "000005".
        annotations: N `Annotation`s. Corners have three decimals at most.

    Raises:
        FileNotFoundError: if the data is not prepared and `download` is False.
        VocError: on a file that is not an image or a box that is not within it; they are named. On a split
            without any annotation, which is what the test images of 2012 are.
        ValueError: on an unknown split or year, or a builder without the features of `voc`.
    """

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "trainval",
        year: str = "2007",
        boxes: str = "strict",
        *,
        name: str = "voc",
        download: bool = False,
        exif_orientation: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}. Received: split={split!r}")
        self._exif_orientation = exif_orientation
        check_boxes(boxes)
        self._found: list[tuple[int, int, dict]] = []
        super().__init__(
            f"{name}/{year}",
            root,
            SPLITS[split],
            label_key="",
            file_name_key="image/filename",
            download=download,
        )
        if not self._found:
            raise ValueError(f"{self.name} has no 'image/filename': is it of the features of TFDS's voc?")
        found = [self._found[row] for row in self._order]
        del self._found
        self.class_names = VOC_CLASSES
        assert self._names is not None  # `file_name_key` is there
        self.names = tuple(os.path.splitext(file.decode())[0] for file in self._names)
        self.annotations = tuple(
            _annotation(self.describe(row), boxes, *entry) for row, entry in enumerate(found)
        )
        if not any(len(annotation.labels) for annotation in self.annotations):
            raise VocError(f"None of the {len(self)} images of {self.name} is annotated: it has no labels")

    @property
    def targets(self) -> np.ndarray:
        """As of `VocDevkit`."""
        return multi_label_targets(self.annotations, self.num_classes)

    def _columns(self, records: Iterator[dict]) -> dict[str, np.ndarray]:
        """Keeps the objects of each record, and the size of its image, as they pass by."""

        def kept() -> Iterator[dict]:
            for record in records:
                file = record["image/filename"].decode(errors="replace")
                if "objects" not in record:
                    raise ValueError(f"{file} has no 'objects': it is of no voc builder of TFDS")
                try:
                    width, height = encoded_size(record["image"], self._exif_orientation)
                except ValueError as error:
                    raise VocError(f"{file}, as TFDS keeps it: {error}") from None
                self._found.append((width, height, record["objects"]))
                yield record

        return super()._columns(kept())


def _annotation(place: str, boxes: str, width: int, height: int, objects: dict) -> Annotation:
    """What the devkit's file says, of TFDS's y1 / height, x1 / width, y2 / height, x2 / width."""
    labels = np.asarray(objects["label"], "int64")
    shares = np.asarray(objects["bbox"], "float64").reshape(-1, 4)[:, [1, 0, 3, 2]]
    corners = np.round(shares * [width, height, width, height], _DECIMALS)
    try:
        corners, overhang = boxes_within(
            corners, [VOC_CLASSES[label] for label in labels], width, height, boxes
        )
    except VocError as error:
        raise VocError(f"{place}: {error}") from None
    difficult = np.asarray(objects["is_difficult"], bool)
    return Annotation(width, height, (corners - 1).astype("float32"), labels, difficult, overhang)


VOC_SOURCES = ("voc_devkit", "voc_tfds")

VocSource = VocDevkit | VocTfds | VocSubset


def open_voc(
    source: str = "voc_devkit",
    root: str | os.PathLike = "",
    split: str = "trainval",
    year: str = "2007",
    limit: int = 0,
    exif_orientation: bool = False,
    classes: Sequence[str] = (),
    boxes: str = "strict",
) -> VocSource:
    """The images of one list of PASCAL VOC, or of one's own in its format.

    They have `names`, `annotations`, `class_names` and `targets`. The log counts boxes that were clipped.

    Args:
        source: "voc_devkit": the devkit's folders, below `root`; "voc_tfds": TFDS's `voc/YEAR`, prepared in
            `root`, or in TFDS's default folder where that is empty.
        root: see `source`.
        split: "train", "val", "trainval" or "test"; of the devkit also another list that is there.
        year: "2007" or "2012".
        limit: the first so many images; 0 for all.
        exif_orientation: whether boxes are in images that are turned as their EXIF says (of `VocTfds`).
        classes, boxes: as of `VocDevkit`. "voc_tfds" has VOC's classes.

    Raises:
        ValueError: on an unknown source, no `root` of the devkit, a negative `limit`, other classes than
            VOC's from "voc_tfds", and those of `VocDevkit`.
        FileNotFoundError, VocError: those of the source.
    """
    if source not in VOC_SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(VOC_SOURCES)}. Received: source={source!r}")
    if limit < 0:
        raise ValueError(f"`limit` must not be negative. Received: limit={limit}")
    if source == "voc_devkit" and not os.fspath(root):
        raise ValueError("source='voc_devkit' needs a `root`: the folder VOCdevkit, or VOC2007 in it")
    check_boxes(boxes)
    if source == "voc_tfds":
        if checked_classes(classes) != VOC_CLASSES:
            raise ValueError(f"source='voc_tfds' has VOC's classes. Received: classes={tuple(classes)}")
        opened = VocTfds(root or None, split, year, boxes, exif_orientation=exif_orientation)
    else:
        opened = VocDevkit(root, split, year, classes, boxes)
    if 0 < limit < len(opened):
        opened = VocSubset(opened, range(limit))
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


KINDS = ("image_folder", "flat_folder", "image_list", "places205", "npz", "tfds", "digits", *VOC_SOURCES)


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
                `SPLIT_labels`; options of `load_npz`;
            `"tfds"`: `root` is TFDS's data_dir; the option `name` is the builder; options of `TfdsSource`;
            `"voc_devkit"`, `"voc_tfds"`: as of `open_voc`, with its other options;
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
        return open_voc(kind, root, split, **options)
    if kind == "tfds":
        if "name" not in options:
            raise ValueError('kind="tfds" needs the builder\'s `name`, such as name="imagenet2012"')
        return TfdsSource(root=root or None, split=split, **options)
    if not os.fspath(root):
        raise ValueError(f"kind={kind!r} needs a `root`")
    if kind == "npz":
        return load_npz(root, **{"images_key": f"{split}_images", "labels_key": f"{split}_labels"} | options)
    if kind == "places205":
        return places205(root, split, **options)
    if kind == "image_list":
        return ImageList(root, **{"list_file": _split_list(Path(root), split)} | options)
    folder = _split_folder(Path(root), split)
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
