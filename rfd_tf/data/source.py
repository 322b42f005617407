"""Collections of images by index, and parts of them."""

import abc
import bisect
import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from rfd_tf.imbalance import class_counts_of, long_tailed_counts, rows_by_class


class Source(abc.ABC):
    """N images with random access, each known by its instance index in [0, N).

    The index of an image depends on the data alone: it is the same in every epoch, run and machine. The
    memory bank, `prob.dat` and a resumed run all rely on that.

    Attributes:
        name: short name for messages and reports.
        labels: int64 of shape [N], or None where the images carry no label.
        class_names: one name per class, or None.
        encoded: True if `fetch` gives a file's bytes, False if it gives pixels.
        left_out: of a folder, how many files are not among the N, by kind (`image_folder.kind_of_file`).
        skipped: of a prepared collection, why images could not be used, by index; None of other sources.
    """

    encoded = True
    left_out: Mapping[str, int] = MappingProxyType({})
    skipped: Mapping[int, str] | None = None

    def __init__(self, name: str, labels: np.ndarray | None, class_names: tuple[str, ...] | None):
        self.name = name
        self.labels = None if labels is None else np.asarray(labels, dtype="int64")
        self.class_names = class_names

    @property
    def num_classes(self) -> int:
        """Classes that the source declares, else one more than its largest label; 0 without labels."""
        if self.class_names is not None:
            return len(self.class_names)
        return 0 if self.labels is None else int(self.labels.max()) + 1

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images N."""

    @abc.abstractmethod
    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        """Image `index` (int64 scalar): a string scalar if `encoded`, else uint8 of shape [H, W, 3].

        Runs in graphs (`tf.data` maps it in parallel) as well as eagerly, as it is written: AutoGraph does
        not turn an `if` on a tensor into a `tf.cond`.
        """

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """Where image `index` is kept, for people: a path, or `file.npz[12]`."""

    def descriptions(self, indices: np.ndarray) -> Iterable[str]:
        """`describe` of each of the images at `indices`."""
        return map(self.describe, np.asarray(indices).tolist())

    def fingerprint(self, indices: np.ndarray) -> str:
        """A hash that tells whether the images at `indices` are still the same ones, in this order."""
        digest = hashlib.sha256()
        for description in self.descriptions(indices):
            digest.update(os.fsencode(description) + b"\0")
        return digest.hexdigest()


def host_constant(values) -> tf.Tensor:
    """`values` as an eager tensor in host memory; graphs then refer to it rather than copy it.

    Sources call it at the first `fetch`, not when they are made: creating a tensor starts TensorFlow's
    runtime, and a multi-worker strategy must still be able to configure that.
    """
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.constant(values)


def image_name(source: Source, index: int) -> str:
    """The path relative to the images' root, with `/`, or `FILE.npz[12]`: text that UTF-8 can hold.

    File names may be any bytes. A backslash is written `\\\\`, and a byte that is no UTF-8 `\\xNN`, so that
    different names stay different; other names are as they are.
    """
    if names := getattr(source, "original_names", None):  # of a prepared collection
        return names[index]
    files = getattr(source, "files", None)
    name = os.path.basename(source.describe(index)) if files is None else files[index]
    return escaped(name)


def escaped(name: str) -> str:
    """A file name, as Python gives it, in UTF-8; see `image_name`."""
    if "\\" not in name and name.isascii():
        return name
    return os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")


def listing_digest(source: Source) -> str:
    """SHA-256 over the names of all images, and their labels, in order."""
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(image_name(source, index).encode() + b"\0")
    if source.labels is not None:
        digest.update(source.labels.astype("<i8").tobytes())
    return digest.hexdigest()


class Subset(Source):
    """Chosen images of `source`, in the given order; the instance index is the position in `indices`.

    The classes stay those of `source`, so that a label means the same in both.

    Args:
        source: any source.
        indices: int64 of shape [M]; rows of `source`, M at least 1.
        name: defaults to the name of `source`.

    Raises:
        ValueError: if `indices` is empty, not a vector of integers, repeats a row or leaves [0, len(source)).
    """

    def __init__(self, source: Source, indices: npt.ArrayLike, name: str | None = None):
        self.source = source
        self.indices = checked_rows(indices, len(source))
        if len(np.unique(self.indices)) < len(self.indices):
            raise ValueError("`indices` names a row twice: an instance must have one index")
        labels = None if source.labels is None else source.labels[self.indices]
        super().__init__(name or source.name, labels, source.class_names)
        self.encoded, self.left_out = source.encoded, source.left_out
        if (bad := source.skipped) is not None:
            self.skipped = {row: bad[kept] for row, kept in enumerate(self.indices.tolist()) if kept in bad}

    @property
    def num_classes(self) -> int:
        return self.source.num_classes

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        return self.source.fetch(tf.gather(self._rows, index))

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.indices[index]))

    def descriptions(self, indices: np.ndarray) -> Iterable[str]:
        return self.source.descriptions(self.indices[indices])

    def fingerprint(self, indices: np.ndarray) -> str:
        return self.source.fingerprint(self.indices[indices])

    @functools.cached_property
    def _rows(self) -> tf.Tensor:
        return host_constant(self.indices)


def checked_rows(indices: npt.ArrayLike | None, num_images: int) -> np.ndarray:
    """`indices` as int64 of shape [M], M at least 1, each in [0, `num_images`); else ValueError.

    None stands for all.
    """
    if indices is None:
        return np.arange(num_images)
    rows = np.asarray(indices)
    if rows.ndim != 1 or rows.size == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"`indices` must be a non-empty vector of integers. Received: {rows.dtype} {list(rows.shape)}"
        )
    outside = rows[(rows < 0) | (rows >= num_images)]
    if outside.size:
        raise ValueError(f"`indices` must be in [0, {num_images}). Received: {outside[0]}")
    return rows.astype("int64")


def long_tailed(
    source: Source, ratio: float, profile: str = "exp", seed: int = 0, max_count: int | None = None
) -> Subset:
    """A subset of `source` whose class sizes fall from the first class to the last.

    The images drawn are those of the LDAM paper's code for the same seed: one legacy NumPy stream, for the
    classes in order, shuffles the rows of the class; its first rows are kept. The subset then lists
    all rows kept in ascending order, and its instance index counts along that list.

    Args:
        source: labelled.
        ratio: largest class over smallest, at least 1.
        profile: `"exp"` or `"step"`, see `rfd_tf.imbalance.long_tailed_counts`.
        seed: in [0, 2**32).
        max_count: images of the largest class; by default the most for which every class has enough.

    Raises:
        ValueError: if `source` has no labels, a class has too few images (named), or on bad arguments.

    Reference: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
    NeurIPS 2019, section 4.
    """
    if source.labels is None:
        raise ValueError(f"A long tail needs labels, and {source.name} has none")
    available = class_counts_of(source.labels, source.num_classes)
    if max_count is None:
        max_count = _largest_max_count(available, ratio, profile)
    quotas = long_tailed_counts(len(available), max_count, ratio, profile)
    short = np.flatnonzero(quotas > available)
    if short.size:
        label = int(short[0])
        named = f"{label} ({source.class_names[label]})" if source.class_names else label
        raise ValueError(
            f"Class {named} of {source.name} has {available[label]} images, and max_count={max_count} with "
            f"ratio={ratio} ({profile}) needs {quotas[label]}. Lower `max_count` or leave it out"
        )
    stream = np.random.RandomState(seed)  # the stream that defines the published subsets
    kept = []
    for rows, quota in zip(rows_by_class(source.labels, len(quotas)), quotas, strict=True):
        stream.shuffle(rows)
        kept.append(rows[:quota])
    return Subset(source, np.sort(np.concatenate(kept)), f"{source.name} ({profile}, ratio {ratio:g})")


def _largest_max_count(available: np.ndarray, ratio: float, profile: str) -> int:
    def too_many(max_count: int) -> bool:
        try:
            return bool((long_tailed_counts(len(available), max_count, ratio, profile) > available).any())
        except ValueError:  # too few; said below
            return False

    most = bisect.bisect_left(range(1, int(available[0]) + 1), True, key=too_many)
    if not most:
        raise ValueError(
            f"Class 0, where a long tail begins, has no image. Class sizes: {available.tolist()}"
        )
    long_tailed_counts(len(available), most, ratio, profile)  # raises where a class would keep none
    return most
