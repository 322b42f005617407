import itertools

import numpy as np
import pytest

from rfd_tf.evaluation.experiment import labelled_fraction

LABELS = np.repeat([0, 1, 2], [1000, 200, 3])


def chosen(fraction, seed=0, valid=None):
    return labelled_fraction(LABELS, np.arange(len(LABELS)) if valid is None else valid, fraction, seed)


def test_the_share_of_each_class_and_at_least_one():
    assert np.bincount(LABELS[chosen(0.1)]).tolist() == [100, 20, 1]
    assert np.bincount(LABELS[chosen(0.01)]).tolist() == [10, 2, 1]
    assert np.bincount(LABELS[chosen(1e-9)]).tolist() == [1, 1, 1]


def test_the_smaller_share_is_within_the_larger():
    shares = [set(chosen(fraction).tolist()) for fraction in (0.01, 0.1, 0.5, 1.0)]
    assert all(small < large for small, large in itertools.pairwise(shares))


def test_it_depends_on_the_seed_alone_and_is_spread():
    np.testing.assert_array_equal(chosen(0.1), chosen(0.1))
    assert set(chosen(0.1)) != set(chosen(0.1, seed=1))
    positions = chosen(0.1)[:100]
    assert 400 < positions.mean() < 600  # not the first ones of the class


def test_one_class_does_not_change_the_choice_in_another():
    without_the_last = np.flatnonzero(LABELS < 2)
    np.testing.assert_array_equal(chosen(0.1, valid=without_the_last), chosen(0.1)[:-1])


def test_without_labels_the_share_is_of_all():
    assert len(labelled_fraction(None, np.arange(50), 0.1)) == 5


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="label_fraction="):
        chosen(fraction)
    with pytest.raises(ValueError, match="label_seed=-1"):
        chosen(0.1, seed=-1)
