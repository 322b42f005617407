"""What Keras users pass to a loss, for every loss on classes: kinds of labels, reductions, masks, types."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F

from rfd_tf.callbacks import DeferredReweighting
from rfd_tf.imbalance import class_balanced_weights
from rfd_tf.losses import (
    ClassBalancedLoss,
    CrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    MultiLabelLoss,
)

COUNTS = (500, 64, 5)
MAKERS = {
    "ldam": lambda **options: _reweighted(LDAMLoss(COUNTS, **options)),
    "class_balanced": lambda **options: ClassBalancedLoss(COUNTS, 0.99, **options),
    "focal": lambda **options: FocalLoss(1.5, **options),
    "logit_adjusted": lambda **options: LogitAdjustedLoss(COUNTS, **options),
}
WEIGHTED = ("ldam", "class_balanced")
rng = np.random.default_rng(0)
LABELS = rng.integers(0, 3, 10)
LOGITS = np.tanh(rng.normal(size=(10, 3))).astype("float32")
SOFT = rng.dirichlet(np.ones(3), 10).astype("float32")
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def _reweighted(loss):
    loss.reweight(0.99)
    return loss


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def weights_of(name, shares):
    return shares @ class_balanced_weights(COUNTS, 0.99) if name in WEIGHTED else np.ones(len(shares))


@pytest.mark.parametrize("options", [{}, {"reduction": "none"}, {"dtype": "float64"}])
def test_a_one_hot_row_is_its_label(make, options):
    loss = make(**options)
    expected = np.asarray(loss(LABELS, LOGITS))
    np.testing.assert_array_equal(np.asarray(loss(ONE_HOT, LOGITS)), expected)
    np.testing.assert_array_equal(np.asarray(loss(LABELS[:, None], LOGITS)), expected)


def test_soft_labels_against_torch():
    logits, soft = torch.tensor(LOGITS), torch.tensor(SOFT)
    for loss, shifted in (
        (LogitAdjustedLoss(COUNTS), logits + torch.log(torch.tensor(COUNTS) / sum(COUNTS))),
        (CrossEntropyLoss(), logits),
        (FocalLoss(0.0), logits),
        (ClassBalancedLoss(COUNTS, 0.0), logits),
        (
            LDAMLoss(COUNTS, 0.4, 8.0),
            8 * (logits - soft * torch.tensor(LDAMLoss(COUNTS, 0.4).margins).float()),
        ),
    ):
        expected = F.cross_entropy(shifted, soft).item()
        assert float(loss(SOFT, LOGITS)) == pytest.approx(expected, rel=1e-5), loss.name


def test_cross_entropy_of_integers_is_kerass():
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for labels in (LABELS, LABELS[:, None]):
        assert float(CrossEntropyLoss()(labels, LOGITS)) == float(theirs(LABELS, LOGITS))
    each = CrossEntropyLoss(reduction="none")
    np.testing.assert_allclose(each(ONE_HOT, LOGITS), each(LABELS, LOGITS), rtol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["integers", "soft"])
@pytest.mark.parametrize("name", MAKERS)
def test_reductions_and_sample_weights(name, labels):
    shares = SOFT if labels is SOFT else ONE_HOT
    classes = weights_of(name, shares.astype("float64"))
    each = np.asarray(MAKERS[name](reduction="none")(labels, LOGITS))
    assert each.shape == (10,)
    samples = rng.uniform(size=10).astype("float32")
    mean = float(MAKERS[name]()(labels, LOGITS, samples))
    assert mean == pytest.approx((samples * each).sum() / classes.sum(), rel=1e-5)
    total = float(MAKERS[name](reduction="sum")(labels, LOGITS, samples))
    assert total == pytest.approx((samples * each).sum(), rel=1e-5)


def test_masked_examples_count_nowhere(make):
    mask = np.arange(10) % 3 != 0
    expected = float(make()(LABELS[mask], LOGITS[mask]))
    logits = tf.constant(LOGITS)
    logits._keras_mask = tf.constant(mask)
    assert float(make()(LABELS, logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["integers", "soft"])
def test_in_graphs_and_compiled(make, labels):
    loss = make()
    expected = float(loss(labels, LOGITS))
    for options in ({}, {"jit_compile": True}):
        found = tf.function(loss, **options)(tf.constant(labels), tf.constant(LOGITS))
        assert float(found) == pytest.approx(expected, rel=1e-5), options


def test_labels_out_of_range(make):
    loss = make()
    wrong = np.array([0, 1, 7])
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\). Received: 7") as failure:
        loss(wrong, LOGITS[:3])
    assert "7" in str(failure.value).splitlines()[0]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"labels must be in \[0, 3\). Received:\] \[7\]"
    ):
        tf.function(loss)(tf.constant(wrong), tf.constant(LOGITS[:3]))
    assert np.isnan(float(tf.function(loss, jit_compile=True)(tf.constant(wrong), tf.constant(LOGITS[:3]))))


def test_other_shapes_are_refused(make):
    for labels in (np.zeros((10, 2)), np.zeros((10, 3, 1))):
        with pytest.raises(ValueError, match=r"\[B, 3\]. Received shape \(10, "):
            make()(labels, LOGITS)


def test_a_mapping_of_counts_is_refused():
    for loss in (LDAMLoss, ClassBalancedLoss, LogitAdjustedLoss):
        with pytest.raises(ValueError, match=r"must be a sequence.*Received a mapping: \{0: 10"):
            loss({0: 10, 1: 5})


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtype(make, dtype):
    loss = make(dtype=dtype)
    value = loss(LABELS, LOGITS)
    assert keras.backend.standardize_dtype(value.dtype) == dtype
    assert float(value) == pytest.approx(float(make()(LABELS, LOGITS)), rel=0.05)


@pytest.mark.parametrize("name", ["focal", "logit_adjusted"])
def test_labels_beyond_what_the_type_counts(name):
    """bfloat16 holds whole numbers up to 256; Keras's own cast would make 304 of 303."""
    loss = FocalLoss(dtype="bfloat16") if name == "focal" else LogitAdjustedLoss([1] * 310, dtype="bfloat16")
    logits = 9 * np.eye(310, dtype="float32")[[303]]
    assert float(loss([303], logits)) < 0.1
    assert float(loss([304], logits)) > 8


def test_focal_loss_of_a_distribution_is_keras_own():
    expected = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=1.5, from_logits=True)
    assert float(FocalLoss(1.5)(SOFT, LOGITS)) == pytest.approx(float(expected(SOFT, LOGITS)), rel=1e-4)


def test_a_class_without_a_share_may_be_ruled_out(make):
    logits = tf.Variable([[0.0, 1.0, -np.inf]])
    with tf.GradientTape() as tape:
        value = make()(np.array([[0.5, 0.5, 0.0]], "float32"), logits)
    assert np.isfinite(float(value))
    assert np.isfinite(tape.gradient(value, logits).numpy()).all()


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("jit_compile", [None, True])
def test_masks(make, reduction, jit_compile):
    """Also predictions of another type than the loss's, and batches of which nothing is left."""
    loss = make(reduction=reduction)
    half = LOGITS.astype("float16")

    @tf.function(jit_compile=jit_compile)
    def masked(mask):
        logits = tf.constant(half)
        logits._keras_mask = mask
        return loss(LABELS, logits)

    mask = np.arange(10) % 3 != 0
    expected = float(loss(LABELS[mask], half[mask]))
    assert float(masked(tf.constant(mask))) == pytest.approx(expected, rel=1e-5)
    assert float(masked(tf.zeros(10, tf.bool))) == 0.0


@pytest.mark.parametrize("name", MAKERS)
def test_mean_with_sample_weight(name):
    samples = np.linspace(0.1, 2, 10).astype("float32")
    each = np.asarray(MAKERS[name](reduction="none")(SOFT, LOGITS))
    weights = samples * weights_of(name, SOFT.astype("float64"))
    for shape in ((10,), (10, 1)):
        found = MAKERS[name](reduction="mean_with_sample_weight")(SOFT, LOGITS, samples.reshape(shape))
        assert float(found) == pytest.approx((samples * each).sum() / weights.sum(), rel=1e-5)


def test_they_come_back_from_their_configs(make):
    loss = make(reduction="sum", dtype="float64", name="mine")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (again.reduction, again.name, again.get_config()) == ("sum", "mine", loss.get_config())
    assert MultiLabelLoss.from_config(MultiLabelLoss(reduction="none").get_config()).reduction == "none"


def test_deferred_reweighting_finds_the_losses_of_several_outputs():
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(3, name=name)(inputs) for name in ("a", "b", "c")}
    model = keras.Model(inputs, outputs)
    losses = {"a": LDAMLoss(COUNTS), "b": "mse", "c": LDAMLoss(COUNTS)}
    model.compile("sgd", loss=losses)
    x = rng.normal(size=(10, 4)).astype("float32")
    y = {"a": LABELS, "b": SOFT, "c": ONE_HOT}
    model.fit(x, y, epochs=2, verbose=0, callbacks=[DeferredReweighting(1, beta=0.9)])
    for name in ("a", "c"):
        expected = class_balanced_weights(COUNTS, 0.9)
        np.testing.assert_allclose(np.asarray(losses[name].class_weights), expected, rtol=1e-5)


def test_deferred_reweighting_finds_a_loss_in_a_list():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
    loss = LDAMLoss(COUNTS)
    model.compile("sgd", loss=["mse", loss])
    x = rng.normal(size=(10, 4)).astype("float32")
    model.fit(x, [SOFT, LABELS], verbose=0, callbacks=[DeferredReweighting(0, beta=0.9)])
    np.testing.assert_allclose(np.asarray(loss.class_weights), class_balanced_weights(COUNTS, 0.9), rtol=1e-5)
