"""Pictures in one folder per class."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rfd_tf.data.image_files import BESIDE, ImageFiles, has_picture_ending, kind_of_file, pictures_below


class ImageFolder(ImageFiles):
    """`root/CLASS/**/PICTURE`: classes in the order of their folders' names, then by path.

    The order, and with it the instance index, is that of torchvision's `ImageFolder`, so that a `prob.dat`
    written with it fits. The ending decides what is a picture, in any case; links are followed. Other files,
    and pictures beside the class folders, are left out and counted.

    Args:
        root: the folder that holds the class folders.
        labelled: False drops the labels; then one class folder is enough, and empty ones are no error.
        on_error: `"raise"` refuses files whose ending TensorFlow cannot decode; `"skip"` lists them, so
            that every index stays as it is, and leaves them to `valid_indices`.

    Raises:
        FileNotFoundError: if `root` is not a folder, or holds no class folder, or (labelled) an empty one.
        ValueError: if there is one class only (labelled), or on an undecodable ending with `"raise"`.

    Example: `ImageFolder("imagenet/train").labels`
    """

    def __init__(self, root: str | os.PathLike, labelled: bool = True, on_error: str = "raise"):
        root = Path(root)
        classes = _class_folders(root)
        left_out = _beside(root)
        files: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = [f"{name}/{path}" for path in _in_torchvision_order(root / name, left_out)]
            if labelled and not found:
                raise FileNotFoundError(f"Class folder {root / name} holds no picture. Fill it or remove it")
            files += found
            labels += [label] * len(found)
        if labelled and len(classes) < 2:
            raise ValueError(
                f"{root} holds one class folder only ({classes[0]!r}), and labels need at least two. For "
                "pictures without labels use a flat folder"
            )
        super().__init__(
            root,
            files,
            np.asarray(labels) if labelled else None,
            classes if labelled else None,
            on_error,
            left_out,
        )


def _class_folders(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise FileNotFoundError(f"No folder of pictures at {root}")
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if not classes:
        raise FileNotFoundError(f"{root} holds no class folder: it needs one folder of pictures per class")
    return classes


def _beside(root: Path) -> Counter[str]:
    """The files beside the class folders, by kind."""
    names = [entry.name for entry in os.scandir(root) if not entry.is_dir()]
    return Counter(BESIDE if has_picture_ending(name) else kind_of_file(name) for name in names)


def _in_torchvision_order(folder: Path, left_out: Counter[str]) -> Iterator[str]:
    """Paths relative to `folder`: sub-folders in the order of their paths, in each the names in order."""
    for path, names in sorted(pictures_below(folder, left_out)):
        inside = os.path.relpath(path, folder)
        for name in sorted(names):
            yield name if inside == "." else f"{inside}/{name}"
