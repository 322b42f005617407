"""Long-tailed subsets of balanced data."""

import numpy as np

from rfd_tf.data.source import Source
from rfd_tf.data.subset import Subset
from rfd_tf.imbalance import class_counts_of, long_tailed_counts


def long_tailed(
    source: Source, ratio: float, profile: str = "exp", seed: int = 0, max_count: int | None = None
) -> Subset:
    """A subset of `source` whose class sizes fall from the first class to the last.

    The pictures drawn are those of the LDAM paper's code for the same seed: one legacy NumPy stream, for the
    classes in order, shuffles the rows of the class; its first rows are kept. The subset then lists
    all rows kept in ascending order, and its instance index counts along that list.

    Args:
        source: labelled.
        ratio: largest class over smallest, at least 1.
        profile: `"exp"` or `"step"`, see `rfd_tf.imbalance.long_tailed_counts`.
        seed: in [0, 2**32).
        max_count: pictures of the largest class; by default the most for which every class has enough.

    Raises:
        ValueError: if `source` has no labels, a class has too few pictures (named), or on bad arguments.

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
            f"Class {named} of {source.name} has {available[label]} pictures, and max_count={max_count} with "
            f"ratio={ratio} ({profile}) needs {quotas[label]}. Lower `max_count` or leave it out"
        )
    stream = np.random.RandomState(seed)  # the stream that defines the published subsets
    kept = []
    for label, quota in enumerate(quotas):
        rows = np.flatnonzero(source.labels == label)
        stream.shuffle(rows)
        kept.append(rows[:quota])
    return Subset(source, np.sort(np.concatenate(kept)), f"{source.name} ({profile}, ratio {ratio:g})")


def _largest_max_count(available: np.ndarray, ratio: float, profile: str) -> int:
    for max_count in range(int(available[0]), 0, -1):
        if (long_tailed_counts(len(available), max_count, ratio, profile) <= available).all():
            return max_count
    raise ValueError(f"Class 0, where a long tail begins, has no picture. Class sizes: {available.tolist()}")
