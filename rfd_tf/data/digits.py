"""Handwritten digits that come with scikit-learn: real pictures without a download."""

import numpy as np

from rfd_tf.data.arrays import ArraySource

SPLITS = ("train", "validation")
VALIDATION_EVERY = 4


def digits(split: str = "train") -> ArraySource:
    """scikit-learn's 1,797 scans of handwritten digits, 8x8, as RGB pictures; ten classes.

    Grey levels 0..16 become 0..255. Within each class, in the file's order, every fourth scan (the 4th, the
    8th, ...) is validation and the rest is train: 1,352 and 445 pictures.

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
