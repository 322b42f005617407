import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import ArraySource, Subset, long_tailed
from rfd_tf.imbalance import long_tailed_counts

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat(np.arange(5), [40, 30, 30, 20, 10]))
SOURCE = ArraySource(RNG.integers(0, 256, (130, 2, 2, 3), dtype="uint8"), LABELS, list("abcde"))


def published_procedure(labels, counts, seed):
    """LDAM's procedure: one legacy stream (its global one), one shuffle per class, the first rows kept."""
    stream = np.random.RandomState(seed)
    kept = []
    for label, count in enumerate(counts):
        rows = np.where(labels == label)[0]
        stream.shuffle(rows)
        kept.extend(rows[:count])
    return sorted(kept)


@pytest.mark.parametrize("profile", ["exp", "step"])
@pytest.mark.parametrize("seed", [0, 3])
def test_draws_what_the_paper_draws(profile, seed):
    subset = long_tailed(SOURCE, 10, profile, seed, max_count=20)
    counts = long_tailed_counts(5, 20, 10, profile)
    assert np.bincount(subset.labels).tolist() == counts.tolist()
    assert subset.indices.tolist() == published_procedure(LABELS, counts, seed)


def test_default_takes_the_most_that_fits():
    counts = np.bincount(long_tailed(SOURCE, 10).labels)
    available = np.bincount(LABELS)
    assert (counts <= available).all()
    assert (long_tailed_counts(5, counts[0] + 1, 10) > available).any() or counts[0] == available[0]


def test_subset_keeps_classes_and_renumbers():
    subset = Subset(SOURCE, np.flatnonzero(LABELS == 1)[::-1])
    assert len(subset) == 30
    assert subset.num_classes == 5
    assert subset.class_names == tuple("abcde")
    row = int(np.flatnonzero(LABELS == 1)[-1])
    np.testing.assert_array_equal(subset.fetch(tf.constant(0, tf.int64)), SOURCE.images[row])
    assert subset.describe(0) == f"arrays[{row}]"


def test_long_tail_errors():
    with pytest.raises(ValueError, match=r"Class 0 \(a\) of arrays has 40 images, .* needs 41"):
        long_tailed(SOURCE, 2, max_count=41)
    with pytest.raises(ValueError, match="needs labels"):
        long_tailed(ArraySource(SOURCE.images), 10)
    with pytest.raises(ValueError, match="ratio=100"):
        long_tailed(SOURCE, 100)


@pytest.mark.parametrize("indices", [[], [0, 0], [130], [-1], [0.5], [[0]]])
def test_subset_errors(indices):
    with pytest.raises(ValueError, match="indices"):
        Subset(SOURCE, indices)
