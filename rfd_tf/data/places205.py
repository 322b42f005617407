"""Places205 as its authors' archives unpack."""

import os
from pathlib import Path

from rfd_tf.data.image_list import ImageList

PICTURES = "data/vision/torralba/deeplearning/images256"
LISTS = "trainvalsplit_places205"
SPLITS = ("train", "val")


def places205(root: str | os.PathLike, split: str = "train", on_error: str = "raise") -> ImageList:
    """The 205 scene classes of Zhou et al., "Learning Deep Features for Scene Recognition", NIPS 2014.

    The lists are `root/trainvalsplit_places205/{train,val}_places205.csv`, of rows `path label` split by a
    space; the pictures lie below `root/data/vision/torralba/deeplearning/images256/`. The order is that of
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
    source = ImageList(root / PICTURES, root / LISTS / f"{split}_places205.csv", on_error=on_error)
    if source.labels is None:
        raise ValueError(f"{source.list_file}:1: a row must be a path, a space and a label")
    source.name = f"places205/{split}"
    return source
