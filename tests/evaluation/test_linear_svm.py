"""Linear SVMs against scikit-learn called directly, and draws of few examples against their rule."""

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from rfd_tf.evaluation.voc_classification import (
    SvmOptions,
    compact,
    cross_validated,
    fewest_positives,
    low_shot_labels,
    normalized,
    svm_threads,
    train_svm,
)

OPTIONS = SvmOptions(seed=3)
COSTS = (0.01, 0.5, 10.0)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, -1, 1, 0], 60)
    features = rng.normal(size=(60, 100)) + 0.08 * labels[:, None]
    return normalized(features), labels, normalized(rng.normal(size=(25, 100)))


def machine(cost):
    return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, tol=1e-4, random_state=3)


def test_equals_scikit_learns(problem):
    features, labels, test = problem
    counted = labels != 0
    for cost in COSTS:
        scores, converged = train_svm(features, labels, test, cost, OPTIONS)
        theirs = machine(cost).fit(features[counted], labels[counted])
        np.testing.assert_array_equal(scores, theirs.decision_function(test))
        assert converged


def test_cross_validation_equals_scikit_learns(problem):
    features, labels, _ = problem
    counted = labels != 0
    with svm_threads() as pool:
        found = cross_validated(features, labels, COSTS, OPTIONS, pool)
        few = np.where(np.cumsum(labels == 1) > 2, -1, labels)
        assert cross_validated(features, few, COSTS, OPTIONS, pool) is None
    for cost, precision in zip(COSTS, found, strict=True):
        expected = cross_val_score(
            machine(cost), features[counted], labels[counted], cv=3, scoring="average_precision"
        )
        assert precision == pytest.approx(expected.mean(), abs=1e-12)
    assert len(set(found)) > 1


def test_fewer_dimensions_change_no_score(problem):
    features, labels, test = problem
    small, small_test = compact(features, test)
    assert small.shape == (60, 60)
    for cost in COSTS:
        expected = train_svm(features, labels, test, cost, OPTIONS)[0]
        found = train_svm(small, labels, small_test, cost, OPTIONS)[0]
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())  # the solver's `tol`
    assert compact(features[:, :10], test[:, :10])[0].shape == (60, 10)


def test_a_solver_that_was_stopped_is_told(problem):
    features, labels, test = problem
    with svm_threads():
        _, converged = train_svm(features, labels, test, 100.0, SvmOptions(max_iterations=2))
    assert not converged


def test_lengths_are_one_but_for_zeros():
    values = np.float32([[3, 4], [0, 0]])
    np.testing.assert_allclose(normalized(values), [[0.6, 0.8], [0, 0]], rtol=1e-5)


@pytest.mark.parametrize("change", [{"positive_weight": 0.0}, {"max_iterations": 0}, {"folds": 1}])
def test_options_out_of_range(change):
    with pytest.raises(ValueError, match="positive_weight"):
        SvmOptions(**change)


def test_draws_of_few_examples():
    rng = np.random.default_rng(1)
    targets = rng.choice([-1, -1, -1, 1, 0], (200, 5)).astype("int8")
    drawn = low_shot_labels(targets, 8, 0, seed=0)
    assert drawn.dtype == np.int8
    assert ((drawn == 1).sum(axis=0) == 8).all()
    assert ((drawn == -1).sum(axis=0) == 4 * 8).all()
    np.testing.assert_array_equal(targets[drawn != 0], drawn[drawn != 0])
    np.testing.assert_array_equal(low_shot_labels(targets, 8, 0, seed=0), drawn)
    others = [low_shot_labels(targets, 8, *change) for change in ((1, 0), (0, 1))]
    assert not any(np.array_equal(other, drawn) for other in others)
    # Of 30 draws of one of n images each is as likely: no more than a few come twice as often as expected.
    ones = [np.flatnonzero(low_shot_labels(targets, 1, sample, 0)[:, 0] == 1)[0] for sample in range(30)]
    assert len(set(ones)) > 12


def test_draws_take_all_negatives_where_there_are_too_few():
    targets = np.array([[1, -1], [1, -1], [-1, 1], [0, 1]], "int8")
    drawn = low_shot_labels(targets, 2, 0, 0)
    np.testing.assert_array_equal(drawn, targets)
    assert fewest_positives(targets[:3]) == (1, 1)
