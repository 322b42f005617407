"""Images in memory: arrays, `.npz` files, and the bundled digits."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from rfd_tf.data.source import Source, host_constant


class ArraySource(Source):
    """Images of one size, already decoded; the index is the row.

    Args:
        images: uint8 of shape [N, H, W, 3], or [N, H, W] for grey images, which become RGB.
        labels: integers of shape [N], none negative, or None.
        class_names: one name per class, or None.
        name: a file name or the like; image 12 is described as `name[12]`.

    Raises:
        ValueError: on another type or shape, no image, labels of another length, or a label out of range.
    """

    encoded = False

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
    ):
        self.images = _checked_images(images, name)
        class_names = None if class_names is None else tuple(map(str, class_names))
        if labels is not None:
            labels = _checked_labels(labels, len(self.images), class_names, name)
        super().__init__(name, labels, class_names)

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._pixels, index)

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def fingerprint(self, indices: np.ndarray) -> str:
        """Of the pixels."""
        digest = hashlib.sha256(str(self.images.shape[1:]).encode())
        for index in indices:
            digest.update(np.ascontiguousarray(self.images[index]).data)
        return digest.hexdigest()

    @functools.cached_property
    def _pixels(self) -> tf.Tensor:
        return host_constant(self.images)


def load_npz(
    path: str | os.PathLike,
    images_key: str = "train_images",
    labels_key: str | None = "train_labels",
    class_names_key: str | None = "class_names",
) -> ArraySource:
    """The images of an `.npz` file; pickled content is never executed.

    Args:
        path: the file.
        images_key: name of the images, uint8 of shape [N, H, W, 3] or [N, H, W].
        labels_key: name of the labels, integers of shape [N]; None for images without labels.
        class_names_key: name of the class names, used only where the file has it and labels are read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a readable `.npz`, misses a key (the message lists those it has), or if
            `ArraySource` refuses the arrays.
    """
    path = os.fspath(path)
    with _opened(path) as archive:
        images = _member(archive, images_key, "images_key")
        labels = None if labels_key is None else _member(archive, labels_key, "labels_key")
        class_names = None
        if labels is not None and class_names_key is not None and class_names_key in archive.files:
            class_names = tuple(archive[class_names_key])
    return ArraySource(images, labels, class_names, name=path)


def npz_names(path: str | os.PathLike) -> list[str]:
    """The names of the arrays in an `.npz` file; errors as of `load_npz`."""
    with _opened(path) as archive:
        return archive.files


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[np.lib.npyio.NpzFile]:
    """The archive, nothing pickled; errors of reading it name the file."""
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            yield archive
    except FileNotFoundError:
        raise FileNotFoundError(f"No .npz file at {path}") from None
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]}") from None
    except Exception as error:  # zipfile, zlib and NumPy each have their own for a damaged file
        raise ValueError(f"{path} cannot be read as an .npz file of plain arrays: {error}") from error


def _member(archive, key: str, argument: str) -> np.ndarray:
    if key not in archive.files:
        raise KeyError(f"no array named {key!r} (`{argument}`); it has {', '.join(sorted(archive.files))}")
    return archive[key]


def _checked_images(images: np.ndarray, name: str) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"{name}: the images must be uint8. Received: {images.dtype}")
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise ValueError(
            f"{name}: the images must have shape [N, H, W, 3] or [N, H, W]. Received: {list(images.shape)}"
        )
    if 0 in images.shape:
        raise ValueError(f"{name} holds no image. Received images of shape {list(images.shape)}")
    return np.repeat(images[..., None], 3, axis=-1) if images.ndim == 3 else images


def _checked_labels(labels: np.ndarray, count: int, class_names: tuple | None, name: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name}: the labels must be {count} integers, one per image. "
            f"Received: {labels.dtype} of shape {list(labels.shape)}"
        )
    num_classes = len(class_names) if class_names is not None else int(labels.max()) + 1
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(f"{name}: labels must be in [0, {num_classes}). Received: {outside[0]}")
    return labels.astype("int64")


SPLITS = ("train", "validation")
VALIDATION_EVERY = 4


def digits(split: str = "train") -> ArraySource:
    """scikit-learn's 1,797 scans of handwritten digits, 8x8, as RGB images; ten classes.

    Grey levels 0..16 become 0..255. Within each class, in the file's order, every fourth scan (the 4th, the
    8th, ...) is validation and the rest is train: 1,352 and 445 images.

    Raises:
        ValueError: on a split other than `"train"` and `"validation"`.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}. Received: split={split!r}")
    from sklearn.datasets import load_digits  # takes a second to import

    scans = load_digits()
    position = np.zeros(len(scans.target), dtype="int64")
    for label in range(10):
        of_class = np.flatnonzero(scans.target == label)
        position[of_class] = np.arange(len(of_class))
    validation = position % VALIDATION_EVERY == VALIDATION_EVERY - 1
    rows = validation if split == "validation" else ~validation
    images = np.round(scans.images[rows] * (255 / 16)).astype("uint8")
    return ArraySource(images, scans.target[rows], [str(n) for n in scans.target_names], f"digits/{split}")
