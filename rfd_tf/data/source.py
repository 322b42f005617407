"""The one interface that every data set is read through."""

import abc
import hashlib
import os
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import tensorflow as tf


class Source(abc.ABC):
    """N pictures with random access, each known by its instance index in [0, N).

    The index of a picture depends on the data alone: it is the same in every epoch, run and machine. The
    memory bank, `prob.dat` and a resumed run all rely on that.

    Attributes:
        name: short name for messages and reports.
        labels: int64 of shape [N], or None where the pictures carry no label.
        class_names: one name per class, or None.
        encoded: True if `fetch` gives a file's bytes, False if it gives pixels.
        left_out: of a folder, how many files are not among the N, by kind (`image_files.kind_of_file`).
    """

    encoded = True
    left_out: Mapping[str, int] = MappingProxyType({})

    def __init__(self, name: str, labels: np.ndarray | None, class_names: tuple[str, ...] | None):
        self.name = name
        self.labels = None if labels is None else np.asarray(labels, dtype="int64")
        self.class_names = class_names

    @property
    def num_classes(self) -> int | None:
        """Classes that the source declares, else one more than its largest label; None without labels."""
        if self.class_names is not None:
            return len(self.class_names)
        return None if self.labels is None else int(self.labels.max()) + 1

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of pictures N."""

    @abc.abstractmethod
    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        """Picture `index` (int64 scalar): a string scalar if `encoded`, else uint8 of shape [H, W, 3].

        Runs in graphs (`tf.data` maps it in parallel) as well as eagerly.
        """

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """Where picture `index` is kept, for people: a path, or `file.npz[12]`."""

    def fingerprint(self, indices: np.ndarray) -> str:
        """A hash that tells whether the pictures at `indices` are still the same ones, in this order."""
        digest = hashlib.sha256()
        for index in np.asarray(indices).tolist():
            digest.update(os.fsencode(self.describe(index)) + b"\0")
        return digest.hexdigest()


def host_constant(values) -> tf.Tensor:
    """`values` as an eager tensor in host memory; graphs then refer to it rather than copy it.

    Sources call it at the first `fetch`, not when they are made: creating a tensor starts TensorFlow's
    runtime, and a multi-worker strategy must still be able to configure that.
    """
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.constant(values)
