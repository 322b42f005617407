"""PASCAL VOC from wherever a config says it is."""

import os

from rfd_tf.data.voc import VocDevkit
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
) -> VocSource:
    """The pictures of one list of PASCAL VOC, with `names`, `annotations` and `targets`.

    Args:
        source: "voc_devkit": the devkit's folders, below `root`; "voc_tfds": TFDS's `voc/YEAR`, prepared in
            `root`, or in TFDS's default folder where that is empty.
        root: see `source`.
        split: "train", "val", "trainval" or "test"; of the devkit also another list that is there.
        year: "2007" or "2012".
        limit: the first so many pictures; 0 for all.
        exif_orientation: whether boxes are in pictures that are turned as their EXIF says (of `VocTfds`).

    Raises:
        ValueError: on an unknown source, no `root` of the devkit, or a negative `limit`.
        FileNotFoundError, VocError: those of the source.
    """
    if source not in VOC_SOURCES:
        raise ValueError(f"`source` must be one of {', '.join(VOC_SOURCES)}. Received: source={source!r}")
    if limit < 0:
        raise ValueError(f"`limit` must not be negative. Received: limit={limit}")
    if source == "voc_devkit" and not os.fspath(root):
        raise ValueError("source='voc_devkit' needs a `root`: the folder VOCdevkit, or VOC2007 in it")
    if source == "voc_tfds":
        opened = VocTfds(root or None, split, year, exif_orientation=exif_orientation)
    else:
        opened = VocDevkit(root, split, year)
    return VocSubset(opened, range(limit)) if 0 < limit < len(opened) else opened
