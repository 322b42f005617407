"""Sources by name, as a configuration gives them."""

import os
from pathlib import Path

from rfd_tf.data.arrays import digits, load_npz
from rfd_tf.data.image_folder import FlatFolder, ImageFolder
from rfd_tf.data.image_list import ImageList, places205
from rfd_tf.data.open_voc import VOC_SOURCES, open_voc
from rfd_tf.data.source import Source
from rfd_tf.data.tfds_source import TfdsSource

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
