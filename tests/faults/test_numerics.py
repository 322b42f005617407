"""Losses, layers, optimizer and models where numbers are extreme: values and gradients stay finite.

Values are compared with NumPy in double precision where there is something to compare.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.detection.fast_rcnn import FastRCNN
from rfd_tf.layers import CosineDense, MemoryBank, RoIMaxPool
from rfd_tf.layers.cosine_dense import l2_normalize
from rfd_tf.losses import CLASSIFIER_LOSSES, classifier_loss, nce_loss, rotation_invariance_loss
from rfd_tf.models import InstanceTask, RotationDecoupling, RotationTask
from rfd_tf.optimizers import CoupledSGD

COUNTS = [10_000_000, 5_000, 20, 1]
LABELS = np.array([0, 1, 2, 3, 3, 0])
RNG = np.random.default_rng(0)
LOGITS = {
    "ordinary": RNG.normal(size=(6, 4)),
    "sure and right": np.where(np.eye(4)[LABELS] > 0, 1e4, -1e4),
    "sure and wrong": np.where(np.eye(4)[LABELS] > 0, -1e4, 1e4),
    "all equal": np.full((6, 4), 1e4),
    "zero": np.zeros((6, 4)),
    "tiny": np.full((6, 4), 1e-30),
    "classes ruled out": np.where(np.eye(4)[LABELS] + np.eye(4)[(LABELS + 1) % 4] > 0, 1.0, -np.inf),
}


def gradient(function, *values):
    """The value of a scalar function, and its gradients."""
    tensors = [tf.convert_to_tensor(value) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return value.numpy(), [found.numpy() for found in tape.gradient(value, tensors)]


def assert_finite(value, gradients):
    assert np.isfinite(np.asarray(value, "float64")).all()
    for found in gradients:
        assert np.isfinite(np.asarray(found, "float64")).all()


@pytest.mark.parametrize("name", CLASSIFIER_LOSSES)
def test_classifier_losses(name):
    made = classifier_loss(name, COUNTS)
    if made.deferred_reweighting:
        made.loss.reweight(0.9999)
    for case, logits in LOGITS.items():
        batches = [(LABELS, logits)]
        if case != "classes ruled out":  # batches of one class, of one image
            batches += [(np.full(6, 3), logits), (np.array([3]), logits[:1])]
        for labels, rows in batches:
            for dtype in ("float32", "bfloat16", "float16"):
                rows_in_dtype = tf.cast(rows.astype("float32"), dtype)
                found = gradient(lambda x, y=labels: tf.cast(made.loss(y, x), "float32"), rows_in_dtype)
                assert_finite(*found)


@pytest.mark.parametrize("case", LOGITS)
def test_cross_entropy_of_ours_against_numpy(case):
    loss = classifier_loss("balanced_softmax", COUNTS).loss
    adjusted = LOGITS[case] + np.log(np.array(COUNTS) / np.sum(COUNTS))
    expected = np.logaddexp.reduce(adjusted, axis=1) - adjusted[np.arange(6), LABELS]
    found = loss.call(LABELS, LOGITS[case].astype("float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-3)  # of logits of 10,000 in float32


@pytest.mark.parametrize("name", CLASSIFIER_LOSSES)
def test_any_number_of_classes(name):
    for classes in (1, 2, 10_000):
        check_number_of_classes(name, classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIER_LOSSES)
def test_ten_million_classes(name):
    check_number_of_classes(name, 10_000_000)


def check_number_of_classes(name, classes):
    counts = np.geomspace(10_000_000, 1, classes).astype("int64")
    made = classifier_loss(name, counts)
    if made.deferred_reweighting:
        made.loss.reweight(0.9999)
    logits = np.random.default_rng(0).uniform(-1, 1, (2, classes)).astype("float32")
    value, gradients = gradient(lambda x: made.loss(np.array([0, classes - 1]), x), logits)
    assert_finite(value, gradients)
    assert value >= 0


@pytest.mark.parametrize("temperature", [1e-3, 0.07, 10.0])
@pytest.mark.parametrize("instances", [1, 10_000_000])
@pytest.mark.parametrize("kind", ["equal", "opposite", "random", "zero"])
def test_bank_and_contrast(kind, instances, temperature):
    """All-equal embeddings included; the bank's first Z must not overflow where the temperature is low."""
    embeddings = np.zeros((3, 4), "float32")
    embeddings[:, 0] = {"equal": 1, "opposite": -1, "random": 0, "zero": 0}[kind]
    if kind == "random":
        embeddings = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = min(instances, 5)
    bank = MemoryBank(rows, 4, temperature)
    bank.build()
    bank.rows.assign(np.eye(4, dtype="float32")[np.zeros(rows, int)])
    bank.num_instances = instances
    index = np.zeros((3, 9), "int32")

    def loss(x):
        similarities = bank(x, index)
        normalizer = bank.normalizer_of(similarities)
        assert np.isfinite(normalizer)
        assert normalizer > 0
        return nce_loss(similarities, normalizer, instances)

    value, gradients = gradient(loss, embeddings)
    assert_finite(value, gradients)
    bank.update(embeddings, np.zeros(3, "int32"))
    assert np.isfinite(bank.rows.numpy()).all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4, 1e15])
def test_normalising_layers(scale):
    values = (scale * np.random.default_rng(0).normal(size=(3, 6))).astype("float32")
    assert_finite(*gradient(lambda x: tf.reduce_sum(l2_normalize(x)), values))
    layer = CosineDense(5)
    layer.build((None, 6))
    layer.kernel.assign(scale * layer.kernel.numpy())
    value, gradients = gradient(lambda x: tf.reduce_sum(layer(x)), values)
    assert_finite(value, gradients)
    assert np.abs(layer(values)).max() <= 1 + 1e-5


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4, 1e18])
def test_invariance_loss(scale):
    same = np.full((8, 6), scale, "float32")
    value, gradients = gradient(rotation_invariance_loss, same)
    assert_finite(value, gradients)
    assert value <= (1e-6 * scale) ** 2


@pytest.mark.parametrize("gradient_size", [0.0, 1e-38, 1e4, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_optimizer(gradient_size, dtype):
    variable = keras.Variable(np.ones(3, "float32"), dtype=dtype)
    optimizer = CoupledSGD(0.1, momentum=0.9, nesterov=True, coupled_weight_decay=5e-4)
    optimizer.build([variable])
    for _ in range(3):
        optimizer.apply_gradients([(tf.fill([3], tf.cast(gradient_size, dtype)), variable)])
    assert np.isfinite(np.asarray(variable.numpy(), "float64")).all()


@pytest.mark.parametrize("size", [1e-30, 1e9, 1e30, np.inf])
def test_pooling_of_regions_of_any_size(size):
    maps = np.random.default_rng(0).normal(scale=1e4, size=(1, 9, 11, 2)).astype("float32")
    regions = np.array(
        [[0, -size, -size, size, size], [0, 3, 3, 3 + size, 3 + size], [0, 9, 9, 1, 1]], "float32"
    )
    layer = RoIMaxPool(3, 16)
    value, gradients = gradient(lambda x: tf.reduce_sum(layer(x, regions)), maps)
    assert_finite(value, gradients)
    if size >= 1e9:  # the first takes the whole map
        assert layer(maps, regions)[0].numpy().max() == maps.max()


@pytest.mark.parametrize("logits", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("labels", [[-1, -1], [0, 0], [1, 2], [-1, 2]])
def test_fast_rcnn_loss(labels, logits):
    """No region that counts, background alone, one class alone; targets as of tiny proposals."""
    trunk_input = keras.Input((None, None, 3))
    trunk = keras.Model(trunk_input, keras.layers.Conv2D(2, 1)(trunk_input))
    model = FastRCNN(trunk, 2, pool=RoIMaxPool(2, 1), dense_width=4)
    targets = {"labels": np.array([labels]), "deltas": np.full((1, 2, 4), 1e5, "float32")}

    def loss(class_logits, deltas):
        return model.compute_loss({}, targets, {"class_logits": class_logits, "deltas": deltas})

    predicted = np.full((1, 2, 3), logits, "float32"), np.full((1, 2, 3, 4), -1e5, "float32")
    assert_finite(*gradient(loss, *predicted))


@pytest.mark.parametrize(
    ("policy", "head"), [("float32", "cosine"), ("mixed_bfloat16", "softmax"), ("mixed_float16", "softmax")]
)
def test_pretraining_steps(policy, head):
    """Equal images, black ones and extreme ones, in every precision that Keras has."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 3))
        maps = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
        features = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps))
        backbone = keras.Model(inputs, {"features": features})
        loss = classifier_loss("ldam", [4, 4, 3, 1]).loss if head == "cosine" else None
        model = RotationDecoupling(
            backbone,
            6,
            rotation_task=RotationTask(head, loss),
            instance_task=InstanceTask(num_negatives=4),
        )
        model.compile(CoupledSGD(0.01, momentum=0.9, nesterov=True), jit_compile=False)
        images = np.zeros((6, 8, 8, 3), "float32")
        images[1], images[2:4] = 1e3, np.random.default_rng(0).normal(size=(8, 8, 3))
        history = model.fit(
            {"image": images, "index": np.arange(6)}, batch_size=3, epochs=2, verbose=0, shuffle=False
        )
        assert all(np.isfinite(values).all() for values in history.history.values())
        assert all(np.isfinite(np.asarray(v, "float64")).all() for v in model.get_weights())
    finally:
        keras.config.set_dtype_policy(before)
