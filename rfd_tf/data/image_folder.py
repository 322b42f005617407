"""Images in folders: one folder a class, any tree, and Places205's."""

import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from rfd_tf.data.source import Source, host_constant

DECODABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
UNDECODABLE = (".ppm", ".pgm", ".tif", ".tiff")
ON_ERROR = ("raise", "skip")
LISTED_KINDS = 10  # of files left out, that are told apart in a message
_ENDING = re.compile(r"\.(?=.*[a-z])\w{1,10}", re.ASCII)  # not the numbers of a series, nor what is not text
BESIDE = "beside the class folders"  # a kind of images


class ImageFiles(Source):
    """A list of image files below one folder, in a given order. Base of the folder sources.

    Args:
        root: the folder; its name names the source.
        files: N paths relative to `root`, with `/`.
        labels: int64 of shape [N] or None.
        class_names: one name per class or None.
        on_error: as in `ImageFolder`.
        left_out: as of `Source`; what there is, is logged.

    Raises:
        FileNotFoundError: if `files` is empty.
        ValueError: on an undecodable ending with `on_error="raise"`, naming the file.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        labels: np.ndarray | None,
        class_names: tuple[str, ...] | None,
        on_error: str = "raise",
        left_out: Mapping[str, int] | None = None,
    ):
        if on_error not in ON_ERROR:
            raise ValueError(f"`on_error` must be one of {ON_ERROR}. Received: on_error={on_error!r}")
        if not files:
            found = f"; it holds {left_out_text(left_out)}" if left_out else ""
            raise FileNotFoundError(
                f"{root} holds no image (a file that ends in {', '.join(DECODABLE)}){found}"
            )
        if on_error == "raise":
            _refuse_undecodable(root, files)
        super().__init__(root.name or str(root), labels, class_names)
        self.root = root
        self.files = tuple(files)
        self.left_out = dict(left_out or {})
        if self.left_out:
            logging.warning("Files left out of %s: %s", root, left_out_text(self.left_out))

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        return tf.io.read_file(tf.gather(self._paths, index))

    def describe(self, index: int) -> str:
        return str(self.root / self.files[index])

    def fingerprint(self, indices: np.ndarray) -> str:
        """Of paths, sizes and times of last change."""
        digest = hashlib.sha256()
        for index in np.asarray(indices).tolist():
            path = self.describe(index)
            try:
                status = os.stat(path)
                state = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                state = "unreadable"
            digest.update(os.fsencode(path) + f"\0{state}\0".encode())
        return digest.hexdigest()

    @functools.cached_property
    def _paths(self) -> tf.Tensor:
        return host_constant([os.fsencode(f"{self.root}/{file}") for file in self.files])


def images_below(folder: Path, left_out: Counter[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """(folder, its image file names) of `folder` and every folder below it; links are followed.

    Other files are counted in `left_out`, by their `kind_of_file`.
    """
    for path, _, names in os.walk(folder, followlinks=True):
        if left_out is not None:
            left_out.update(kind_of_file(name) for name in names if not has_image_ending(name))
        yield path, [name for name in names if has_image_ending(name)]


def has_image_ending(name: str) -> bool:
    """Whether a file is listed as an image; the endings are torchvision's."""
    return name.lower().endswith(DECODABLE + UNDECODABLE)


def kind_of_file(name: str) -> str:
    """What a file that is left out is counted as: `hidden`, its ending such as `.heic`, or `other ending`."""
    ending = os.path.splitext(name)[1].lower()
    return "hidden" if name.startswith(".") else ending if _ENDING.fullmatch(ending) else "other ending"


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Files by kind, the most frequent first: `12 .heic, 3 .gif, 1 hidden`."""
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    listed = [f"{count} {kind}" for kind, count in kinds[:LISTED_KINDS]]
    if others := sum(count for _, count in kinds[LISTED_KINDS:]):
        listed.append(f"{others} others")
    return ", ".join(listed)


def _refuse_undecodable(root: Path, files: Sequence[str]) -> None:
    refused = [file for file in files if file.lower().endswith(UNDECODABLE)]
    if refused:
        raise ValueError(
            f"TensorFlow cannot decode {root / refused[0]}"
            + (f" nor {len(refused) - 1} more files with such endings" if len(refused) > 1 else "")
            + '. Convert it (to PNG or JPEG), or leave it out with on_error="skip"'
        )


class ImageFolder(ImageFiles):
    """`root/CLASS/**/IMAGE`: classes in the order of their folders' names, then by path.

    The order, and with it the instance index, is that of torchvision's `ImageFolder`, so that a `prob.dat`
    written with it fits. The ending decides what is an image, in any case; links are followed. Other files,
    and images beside the class folders, are left out and counted.

    Args:
        root: the folder that holds the class folders.
        labelled: False drops the labels; then one class folder is enough, and empty ones are not an error.
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
                raise FileNotFoundError(f"Class folder {root / name} holds no image. Fill it or remove it")
            files += found
            labels += [label] * len(found)
        if labelled and len(classes) < 2:
            raise ValueError(
                f"{root} holds one class folder only ({classes[0]!r}), and labels need at least two. For "
                "images without labels use a flat folder"
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
        raise FileNotFoundError(f"No folder of images at {root}")
    classes = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if not classes:
        raise FileNotFoundError(f"{root} holds no class folder: it needs one folder of images per class")
    return classes


def _beside(root: Path) -> Counter[str]:
    """The files beside the class folders, by kind."""
    names = [entry.name for entry in os.scandir(root) if not entry.is_dir()]
    return Counter(BESIDE if has_image_ending(name) else kind_of_file(name) for name in names)


def _in_torchvision_order(folder: Path, left_out: Counter[str]) -> Iterator[str]:
    """Paths relative to `folder`: sub-folders in the order of their paths, in each the names in order."""
    for path, names in sorted(images_below(folder, left_out)):
        inside = os.path.relpath(path, folder)
        for name in sorted(names):
            yield name if inside == "." else f"{inside}/{name}"


class FlatFolder(ImageFiles):
    """Every image below `root`, unlabelled, in the order of its path relative to `root`.

    Args:
        root: the folder; sub-folders and links are followed.
        on_error: as in `ImageFolder`.

    Raises:
        FileNotFoundError: if `root` is not a folder or holds no image.
        ValueError: on an undecodable ending with `on_error="raise"`, naming the file.
    """

    def __init__(self, root: str | os.PathLike, on_error: str = "raise"):
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"No folder of images at {root}")
        left_out: Counter[str] = Counter()
        files = sorted(
            Path(path, name).relative_to(root).as_posix()
            for path, names in images_below(root, left_out)
            for name in names
        )
        super().__init__(root, files, None, None, on_error, left_out)
