"""A part of another source."""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from rfd_tf.data.source import Source, host_constant


class Subset(Source):
    """Chosen pictures of `source`, in the given order; the instance index is the position in `indices`.

    The classes stay those of `source`, so that a label means the same in both.

    Args:
        source: any source.
        indices: int64 of shape [M]; rows of `source`, M at least 1.
        name: defaults to the name of `source`.

    Raises:
        ValueError: if `indices` is empty, not a vector of integers, repeats a row or leaves [0, len(source)).
    """

    def __init__(self, source: Source, indices: Sequence[int], name: str | None = None):
        self.source = source
        self.indices = checked_rows(indices, len(source))
        if len(np.unique(self.indices)) < len(self.indices):
            raise ValueError("`indices` names a row twice: an instance must have one index")
        labels = None if source.labels is None else source.labels[self.indices]
        super().__init__(name or source.name, labels, source.class_names)
        self.encoded, self.left_out = source.encoded, source.left_out

    @property
    def num_classes(self) -> int | None:
        return self.source.num_classes

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        return self.source.fetch(tf.gather(self._rows, index))

    def describe(self, index: int) -> str:
        return self.source.describe(int(self.indices[index]))

    def fingerprint(self, indices: np.ndarray) -> str:
        return self.source.fingerprint(self.indices[indices])

    @functools.cached_property
    def _rows(self) -> tf.Tensor:
        return host_constant(self.indices)


def checked_rows(indices: Sequence[int], num_images: int) -> np.ndarray:
    """`indices` as int64 of shape [M], M at least 1, each in [0, `num_images`); else ValueError."""
    rows = np.asarray(indices)
    if rows.ndim != 1 or rows.size == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"`indices` must be a non-empty vector of integers. Received: {rows.dtype} {list(rows.shape)}"
        )
    outside = rows[(rows < 0) | (rows >= num_images)]
    if outside.size:
        raise ValueError(f"`indices` must be in [0, {num_images}). Received: {outside[0]}")
    return rows.astype("int64")
