"""PASCAL VOC from wherever a config says it is."""

import os
from collections.abc import Sequence

import numpy as np
from absl import logging

from rfd_tf.data.voc import VOC_CLASSES, VocDevkit, check_boxes, checked_classes
from rfd_tf.data.voc_subset import VocSubset
from rfd_tf.data.voc_tfds import VocTfds

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
    """The pictures of one list of PASCAL VOC, or of one's own in its format.

    They have `names`, `annotations`, `class_names` and `targets`. The log counts boxes that were clipped.

    Args:
        source: "voc_devkit": the devkit's folders, below `root`; "voc_tfds": TFDS's `voc/YEAR`, prepared in
            `root`, or in TFDS's default folder where that is empty.
        root: see `source`.
        split: "train", "val", "trainval" or "test"; of the devkit also another list that is there.
        year: "2007" or "2012".
        limit: the first so many pictures; 0 for all.
        exif_orientation: whether boxes are in pictures that are turned as their EXIF says (of `VocTfds`).
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
