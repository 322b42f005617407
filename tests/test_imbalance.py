import numpy as np
import pytest
import torch

from rfd_tf import imbalance


def test_exp_profile_is_that_of_cifar10_lt():
    counts = imbalance.long_tailed_counts(10, 5000, 100, "exp")
    # Cao et al.'s CIFAR-10-LT at ratio 100: 12,406 images.
    assert counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert counts.sum() == 12406


def test_step_profile_halves_the_classes():
    assert imbalance.long_tailed_counts(5, 100, 10, "step").tolist() == [100, 100, 10, 10, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 100, 10, "exp"), "num_classes=1"),
        ((3, 0, 10, "exp"), "max_count=0"),
        ((3, 100, 0.5, "exp"), "ratio=0.5"),
        ((3, 100, float("nan"), "exp"), "ratio=nan"),
        ((3, 100, 10, "linear"), "profile='linear'"),
        ((3, 5, 100, "exp"), "leaves class 1 without an example"),
    ],
)
def test_long_tail_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        imbalance.long_tailed_counts(*arguments)


def test_margins_against_the_formula():
    counts = np.array([5000.0, 387.0, 50.0])
    inverse = 1.0 / np.sqrt(np.sqrt(counts))
    np.testing.assert_allclose(imbalance.ldam_margins(counts, 0.5), inverse * (0.5 / inverse.max()))
    assert imbalance.ldam_margins(counts, 0.3).max() == pytest.approx(0.3)


def test_class_balanced_weights_against_the_formula():
    counts = np.array([5000, 387, 50])
    for beta in (0.9, 0.99, 0.9999):
        weights = (1 - beta) / (1 - np.power(beta, counts))
        weights = weights / weights.sum() * 3
        np.testing.assert_allclose(imbalance.class_balanced_weights(counts, beta), weights, rtol=1e-9)
    np.testing.assert_array_equal(imbalance.class_balanced_weights(counts, 0.0), np.ones(3))


def test_class_balanced_weights_of_fifty_random_cases():
    """Against the formula in NumPy, one class at a time, and in PyTorch."""
    rng = np.random.default_rng(0)
    for case in range(50):
        counts = rng.integers(1, 10 ** rng.integers(1, 6), rng.integers(1, 30))
        beta = float(rng.choice([0.0, 0.9, 0.99, 0.999, 0.9999]))
        found = imbalance.class_balanced_weights(counts, beta)
        inverse = [1.0 / np.sum(beta ** np.arange(count)) for count in counts]
        np.testing.assert_allclose(found, np.divide(inverse, np.mean(inverse)), rtol=1e-6, err_msg=str(case))
        tensor = torch.tensor(counts, dtype=torch.float64)
        weights = (1 - beta) / (1 - torch.pow(beta, tensor))
        np.testing.assert_allclose(found, weights / weights.sum() * len(counts), rtol=1e-9, err_msg=str(case))


def test_class_balanced_weights_stay_finite_at_the_extremes():
    weights = imbalance.class_balanced_weights([1, 10_000_000], 0.999999999)
    assert np.isfinite(weights).all()
    assert weights[0] > weights[1] > 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [([], "non-empty"), ([3, 0], "class 1 has 0"), ([-1, 2, -3], "class 0 has -1 .2 such"), ([[1]], "shape")],
)
def test_bad_counts(counts, message):
    for function in (imbalance.ldam_margins, lambda c: imbalance.class_balanced_weights(c, 0.9)):
        with pytest.raises(ValueError, match=message):
            function(counts)


@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.2, float("nan")])
def test_beta_out_of_range(beta):
    with pytest.raises(ValueError, match=f"beta={beta}"):
        imbalance.class_balanced_weights([1, 2], beta)


def test_shot_groups_by_the_usual_bounds():
    groups = imbalance.shot_groups([101, 100, 20, 19])
    assert {name: ids.tolist() for name, ids in groups.items()} == {"many": [0], "medium": [1, 2], "few": [3]}


def test_class_counts_of_labels():
    assert imbalance.class_counts_of([2, 0, 2], 4).tolist() == [1, 0, 2, 0]
    with pytest.raises(ValueError, match="Received: 4"):
        imbalance.class_counts_of([0, 4], 4)


def test_rotation_weights_and_effective_counts():
    probabilities = np.array([[0.9, 0.5, 0.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
    weights = imbalance.rotation_instance_weights(probabilities, gamma=2)
    expected = [[1, 0.75, 1, 0], [1, 1 - 0.04, 1 - 0.09, 1 - 0.16]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    np.testing.assert_allclose(
        imbalance.effective_rotation_counts(weights), np.sum(expected, axis=0), rtol=1e-6
    )
    with pytest.raises(ValueError, match="gamma=0"):
        imbalance.rotation_instance_weights(probabilities, gamma=0)
    with pytest.raises(ValueError, match="lie in"):
        imbalance.rotation_instance_weights(probabilities + 0.2)


def test_view_margins_against_the_formula():
    weights = np.array([[1, 0.75, 1, 0], [1, 0.96, 0.91, 0.84]])
    ambiguous = 0.25 + 1 + 0.04 + 0.09 + 0.16  # of 8 views
    rotatable = 0.5 * (ambiguous / (8 - ambiguous)) ** 0.25
    assert imbalance.view_margins(weights, "group", 0.5) == pytest.approx((0.5, rotatable))
    often = imbalance.view_margins(1 - 0.9 * weights, "group", 0.3)  # now most views are ambiguous
    assert often[0] < often[1] == pytest.approx(0.3)
    assert imbalance.view_margins(weights, "image", 0.3) == (0.0, pytest.approx(0.3))
    assert imbalance.view_margins(weights, "none") is imbalance.view_margins(weights, "rotation") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 4)), "group"), "all 1"),
        ((np.zeros((2, 4)), "view"), "form='view'"),
        ((np.zeros((2, 3)), "group"), "shape"),
        ((np.zeros((2, 4)), "image", -1.0), "max_margin=-1"),
    ],
)
def test_bad_arguments_of_view_margins(arguments, message):
    with pytest.raises(ValueError, match=message):
        imbalance.view_margins(*arguments)
