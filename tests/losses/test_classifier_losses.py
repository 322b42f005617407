"""The losses of long-tailed classifiers against NumPy in float64, and against PyTorch where it has them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F

from rfd_tf.losses import (
    CLASSIFIER_LOSSES,
    ClassBalancedLoss,
    CrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    classifier_loss,
    classifier_loss_names,
)
from tests.contract import check_config_round_trip

COUNTS = (5000, 645, 50, 7)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return (4 * rng.normal(size=(20, 4))).astype("float32"), rng.integers(0, 4, 20)


def value_and_gradient(loss, labels, logits):
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = loss(labels, variable)
    return float(value), tape.gradient(value, variable).numpy()


def log_softmax(logits):
    logits = logits.astype("float64")
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def assert_equals_torch(loss, case, expected):
    logits, labels = case
    theirs = torch.tensor(logits, requires_grad=True)
    wanted = expected(theirs, torch.tensor(labels))
    wanted.backward()
    value, gradient = value_and_gradient(loss, labels, logits)
    assert value == pytest.approx(wanted.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss(case, gamma):
    logits, labels = case
    log_p = log_softmax(logits)[np.arange(len(labels)), labels]
    expected = np.mean(-((1 - np.exp(log_p)) ** gamma) * log_p)
    assert float(FocalLoss(gamma)(labels, logits)) == pytest.approx(expected, rel=1e-5)

    def by_torch(theirs, their_labels):
        entropy = F.cross_entropy(theirs, their_labels, reduction="none")
        return ((1 - torch.exp(-entropy)) ** gamma * entropy).mean()

    assert_equals_torch(FocalLoss(gamma), case, by_torch)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_and_its_gradient_are_finite_where_the_answer_is_sure(gamma):
    logits = np.array([[100, 0, 0], [0, 100, 0]], "float32")
    value, gradient = value_and_gradient(FocalLoss(gamma), [0, 0], logits)
    assert value == pytest.approx(50.0)  # the first costs nothing, the second 100
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("beta", [0.0, 0.99, 0.9999])
def test_class_balanced_loss(case, beta):
    weights = torch.tensor([(1 - beta) / (1 - beta**n) for n in COUNTS], dtype=torch.float32)
    weights = weights / weights.sum() * len(COUNTS)
    assert_equals_torch(
        ClassBalancedLoss(COUNTS, beta), case, lambda logits, y: F.cross_entropy(logits, y, weight=weights)
    )


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_logit_adjusted_loss(case, tau):
    adjustment = tau * torch.log(torch.tensor(COUNTS) / sum(COUNTS))
    assert_equals_torch(
        LogitAdjustedLoss(COUNTS, tau), case, lambda logits, y: F.cross_entropy(logits + adjustment, y)
    )


def test_balanced_softmax_by_its_own_formula(case):
    """Ren et al., equation 4: the exponentials are weighted by the counts."""
    logits, labels = case
    exponentials = np.array(COUNTS) * np.exp(logits.astype("float64"))
    expected = -np.log(exponentials / exponentials.sum(axis=1, keepdims=True))[np.arange(20), labels].mean()
    loss = classifier_loss("balanced_softmax", COUNTS, tau=3.0).loss
    assert float(loss(labels, logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", CLASSIFIER_LOSSES)
def test_any_of_them_by_name_in_fit(name, case):
    logits, labels = case
    chosen = classifier_loss(name, COUNTS)
    assert chosen.name == name
    assert chosen.cosine_head == name.startswith("ldam")
    assert chosen.deferred_reweighting == (name == "ldam_drw")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile("sgd", loss=chosen.loss)
    assert np.isfinite(model.fit(logits, labels, verbose=0).history["loss"]).all()


def test_options_reach_their_loss():
    ldam = classifier_loss("ldam", COUNTS, max_margin=0.3, scale=20.0).loss
    assert (ldam.max_margin, ldam.scale) == (0.3, 20.0)
    assert classifier_loss("focal", COUNTS, focal_gamma=1.0).loss.gamma == 1.0
    assert classifier_loss("class_balanced", COUNTS, beta=0.9).loss.beta == 0.9
    assert classifier_loss("logit_adjusted", COUNTS, tau=0.5).loss.tau == 0.5


def test_names():
    assert classifier_loss_names(["all"]) == CLASSIFIER_LOSSES
    assert classifier_loss_names(["focal", "ldam", "focal"]) == ("focal", "ldam")
    with pytest.raises(ValueError, match="Received: 'hinge'"):
        classifier_loss_names(["focal", "hinge"])
    with pytest.raises(ValueError, match="empty"):
        classifier_loss_names([])
    with pytest.raises(ValueError, match="Received: 'hinge'"):
        classifier_loss("hinge", COUNTS)


@pytest.mark.parametrize("name", sorted({*CLASSIFIER_LOSSES} - {"cross_entropy", "focal"}))
def test_a_class_without_images_is_named(name):
    with pytest.raises(ValueError, match=rf"'{name}' needs training images of every class; class 1 has none"):
        classifier_loss(name, [10, 0, 3])
    assert classifier_loss("cross_entropy", [10, 0, 3]).loss is not None


@pytest.mark.parametrize("label", [-1, 4])
@pytest.mark.parametrize("loss", [FocalLoss(), ClassBalancedLoss(COUNTS), LogitAdjustedLoss(COUNTS)])
def test_labels_out_of_range(loss, label):
    with pytest.raises(ValueError, match=rf"{type(loss).__name__}: labels must be in \[0, 4\).*{label}"):
        loss([0, label], np.zeros((2, 4), "float32"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocalLoss(-1.0), r"gamma=-1\.0"),
        (lambda: FocalLoss(float("nan")), "gamma=nan"),
        (lambda: ClassBalancedLoss(COUNTS, 1.0), r"beta=1\.0"),
        (lambda: ClassBalancedLoss([3, 0]), "class 1 has 0"),
        (lambda: LogitAdjustedLoss(COUNTS, -0.5), r"tau=-0\.5"),
        (lambda: LogitAdjustedLoss([3, 0]), "class 1 has 0"),
        (lambda: LogitAdjustedLoss(COUNTS)([0], np.zeros((1, 3), "float32")), r"\[B, 4\]"),
        (lambda: FocalLoss()([0], np.zeros(3, "float32")), r"\[B, C\]"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(),
        FocalLoss(1.5),
        ClassBalancedLoss(COUNTS, 0.9),
        LogitAdjustedLoss(COUNTS, 0.5),
        LDAMLoss(COUNTS),
    ],
)
def test_config_round_trip(loss):
    check_config_round_trip(loss)
