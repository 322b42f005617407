"""The images that features are wanted of, read and prepared."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from rfd_tf import data
from rfd_tf.data import Preprocessing, Source
from rfd_tf.data.bad_images import one_line
from rfd_tf.data.image_folder import DECODABLE, UNDECODABLE, images_below
from rfd_tf.data.source import host_constant
from rfd_tf.image_header import MAX_PIXELS, check_encoded

PREFETCHED_BATCHES = 2


class ImageReader:
    """Images of a source, ready for the network; the bad ones are told apart, not fatal.

    Reading and decoding run in parallel, each image once. One that fails is dropped by the pipeline, which
    goes on; its gap in the order is seen, and it alone is tried again, to learn why.

    Args:
        source: the images.
        preprocessing: its `eval_image` prepares them.
        max_pixels: larger ones are refused by their header (`image_header.check_encoded`).
    """

    def __init__(self, source: Source, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS):
        self.source = source
        self.preprocessing = preprocessing
        self.max_pixels = max_pixels
        self._unread: list[str] = []
        self._example = tf.function(self._prepared, input_signature=[tf.TensorSpec([], tf.int64)])

    def batches(
        self, rows: npt.ArrayLike, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
        """The images `rows`, ascending, in order.

        Yields:
            (indices of the good images, int64 [b]; these, float32 [b, S, S, 3]; the reason for each bad
            image since the last batch, by index); b is about `batch_size` or less, and may be 0.

        Raises:
            OSError: at the end, if of several images none could be read at all: a disk that is gone, rather
                than bad images.
        """
        rows = np.asarray(rows, dtype="int64")
        dataset = tf.data.Dataset.from_tensor_slices(host_constant(rows))
        dataset = dataset.map(self._example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = dataset.ignore_errors().batch(batch_size).prefetch(PREFETCHED_BATCHES)
        passed = 0
        self._unread = []
        for index, images in dataset.as_numpy_iterator():
            end = int(np.searchsorted(rows, index[-1])) + 1
            yield self._with_missing(rows[passed:end], index, images)
            passed = end
        for start in range(passed, len(rows), batch_size):
            size = self.preprocessing.image_size
            none = np.zeros(0, "int64"), np.zeros((0, size, size, 3), "float32")
            yield self._with_missing(rows[start : start + batch_size], *none)
        if len(self._unread) == len(rows) > 1:
            raise OSError(f"None of {len(rows)} images can be read, as {self._unread[0]}")

    def _with_missing(self, rows: np.ndarray, index: np.ndarray, images: np.ndarray):
        """The batch, with those of the dropped `rows` put in that succeed when tried again."""
        bad: dict[int, str] = {}
        for row in np.setdiff1d(rows, index).tolist():
            try:
                image = self._alone(row)
            except Exception as error:  # whatever the source or a decoder raises is this image's reason
                bad[row] = one_line(error)
                continue
            at = np.searchsorted(index, row)
            index, images = np.insert(index, at, row), np.insert(images, at, image, axis=0)
        return index, images, bad

    def _alone(self, row: int) -> np.ndarray:
        try:
            fetched = self.source.fetch(tf.constant(row, tf.int64))
        except Exception as error:
            self._unread.append(f"{self.source.describe(row)}: {one_line(error)}")
            raise
        if self.source.encoded and (reason := check_encoded(fetched.numpy(), self.max_pixels)):
            raise ValueError(reason)
        return self.preprocessing.eval_image(fetched).numpy()

    def _prepared(self, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        fetched = self.source.fetch(row)
        if self.source.encoded:
            good = tf.numpy_function(self._is_good, [fetched], tf.bool, stateful=False)
            with tf.control_dependencies([tf.debugging.Assert(good, ["refused by its header"])]):
                fetched = tf.identity(fetched)
        return row, self.preprocessing.eval_image(fetched)

    def _is_good(self, content: bytes) -> bool:
        return check_encoded(content, self.max_pixels) is None


IMAGES_HELP = "a folder of images or of one folder per class, a list of images, or an .npz file"


def open_images(location: str | os.PathLike, root: str | os.PathLike = "", key: str = "") -> data.Source:
    """Opens images without refusing any by its name or for being missing: that is found when they are read.

    Args:
        location: one of
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
    if path.is_dir():
        kind = data.ImageFolder if has_class_folders(path) else data.FlatFolder
        return kind(path, on_error="skip")
    if path.suffix.lower() == ".npz":
        return _open_npz(path, key)
    if path.name.lower().endswith(DECODABLE + UNDECODABLE):
        raise ValueError(f"{path} is one image: give {IMAGES_HELP}")
    return data.ImageList(root or path.parent, path, every_class=False, on_error="skip")


def has_class_folders(root: Path) -> bool:
    """Whether `root` holds two folders or more, images below each, and no image beside them."""
    _, beside = next(images_below(root))
    folders = [entry.path for entry in os.scandir(root) if entry.is_dir()]
    return (
        not beside
        and len(folders) > 1
        and all(any(names for _, names in images_below(Path(folder))) for folder in folders)
    )


def _open_npz(path: Path, key: str) -> data.Source:
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
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
