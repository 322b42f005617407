"""The pictures that features are wanted of."""

import os
from pathlib import Path

import numpy as np

from rfd_tf import data
from rfd_tf.data.image_files import DECODABLE, UNDECODABLE, pictures_below

IMAGES_HELP = "a folder of pictures or of one folder per class, a list of pictures, or an .npz file"


def open_images(location: str | os.PathLike, root: str | os.PathLike = "", key: str = "") -> data.Source:
    """Opens pictures without refusing any by its name or for being missing: that is found when they are read.

    Args:
        location: one of
            a folder with at least two folders in it, each with pictures below, and no picture beside them:
                an `ImageFolder`, labelled by them;
            another folder: a `FlatFolder`;
            a text file: an `ImageList` (`.npz` and pictures' endings excepted);
            an `.npz` file.
        root: of an `ImageList`, by default its folder.
        key: of an `.npz` file: which array; by default `images`, or the one that ends in `images`. The labels
            are the array of that name with `labels`, if there is one.

    Raises:
        FileNotFoundError: if there is nothing, or no picture.
        ValueError: on another file, a malformed list, or an unclear `key`.
    """
    path = Path(location)
    if not path.exists():
        raise FileNotFoundError(f"No pictures at {path}: it must be {IMAGES_HELP}")
    if path.is_dir():
        kind = data.ImageFolder if has_class_folders(path) else data.FlatFolder
        return kind(path, on_error="skip")
    if path.suffix.lower() == ".npz":
        return _open_npz(path, key)
    if path.name.lower().endswith(DECODABLE + UNDECODABLE):
        raise ValueError(f"{path} is one picture: give {IMAGES_HELP}")
    return data.ImageList(root or path.parent, path, every_class=False, on_error="skip")


def has_class_folders(root: Path) -> bool:
    """Whether `root` holds two folders or more, pictures below each, and no picture beside them."""
    _, beside = next(pictures_below(root))
    folders = [entry.path for entry in os.scandir(root) if entry.is_dir()]
    return (
        not beside
        and len(folders) > 1
        and all(any(names for _, names in pictures_below(Path(folder))) for folder in folders)
    )


def _open_npz(path: Path, key: str) -> data.Source:
    try:
        with np.lib.npyio.NpzFile(path, allow_pickle=False) as archive:
            names = archive.files
    except Exception as error:  # zipfile, zlib and NumPy each have their own for a damaged file
        raise ValueError(f"{path} cannot be read as an .npz file: {error}") from error
    if not key:
        found = [name for name in names if name.endswith("images")]
        if "images" not in found and len(found) != 1:
            raise ValueError(f"{path}: which array? It has {', '.join(sorted(names))}. Give --npz_key")
        key = "images" if "images" in found else found[0]
    labels = f"{key.removesuffix('images')}labels"
    return data.load_npz(path, images_key=key, labels_key=labels if labels in names else None)
