import keras
import numpy as np
import pytest

from rfd_tf.callbacks import CollapseError, CollapseMonitor, signs_of_collapse
from rfd_tf.callbacks.monitors import CHANCE_EPOCHS, effective_rank
from rfd_tf.models import InstanceTask, RotationDecoupling, resnet_cifar
from tests.contract import to_numpy

N = 40
rng = np.random.default_rng(0)
DATA = {"image": rng.normal(size=(N, 8, 8, 3)).astype("float32"), "index": np.arange(N)}


def model_of(instance_task=InstanceTask("softmax", num_negatives=0, temperature=0.2), **options):
    keras.utils.set_random_seed(0)
    backbone = resnet_cifar(8, (8, 8, 3), ["pool"], width=4)
    model = RotationDecoupling(backbone, N, instance_task=instance_task, **options)
    model.compile(keras.optimizers.SGD(1e-2))
    return model


def monitor_of(model, **options):
    monitor = CollapseMonitor(DATA["image"][:8], **options)
    monitor.set_model(model)
    return monitor


def test_figures_of_a_fresh_model():
    model = model_of()
    found = monitor_of(model).measure()
    rows = to_numpy(model.memory_bank.rows).astype("float64")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows @ rows.T)[~np.eye(N, dtype=bool)]
    assert found["bank_cosine"] == pytest.approx(cosines.mean(), abs=1e-6)
    assert 20 < found["bank_rank"] <= N
    assert found["dead_features"] == 0
    assert 0 < found["gradient_ratio"] < 100
    assert not signs_of_collapse(found, CHANCE_EPOCHS)


def test_a_bank_of_equal_rows_and_dead_features_are_seen():
    model = model_of()
    model.memory_bank.rows.assign(np.tile(to_numpy(model.memory_bank.rows)[:1], (N, 1)))
    for layer in model.backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(np.zeros(layer.gamma.shape))
    found = monitor_of(model).measure()
    assert found["bank_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["bank_rank"] == 1
    assert found["dead_features"] == 1
    assert {"bank_cosine", "dead_features"} <= set(signs_of_collapse(found, CHANCE_EPOCHS))


@pytest.mark.parametrize("directions", [1, 3, 10])
def test_effective_rank_counts_directions_of_equal_spread(directions):
    rows = np.zeros((4000, 12))
    rows[:, :directions] = np.random.default_rng(1).normal(size=(4000, directions))
    assert effective_rank(rows + 5) == pytest.approx(directions, rel=0.01)


def test_the_gradient_ratio_is_that_of_the_losses():
    """By the chain rule through the whole model: an independent sum over features of two gradients."""
    import tensorflow as tf

    model = model_of(loss_weights=(2.0, 1.0, 0.5))
    x = {"image": DATA["image"][:8], "index": np.zeros(8, "int32")}
    features = []
    with tf.GradientTape(persistent=True) as tape:
        call = model.backbone.call

        def spy(*args, **kwargs):
            outputs = call(*args, **kwargs)
            features.append(outputs["pool"])
            tape.watch(outputs["pool"])
            return outputs

        model.backbone.call = spy
        outputs = model(x, training=False)
        rotation = keras.losses.sparse_categorical_crossentropy(
            np.tile(np.arange(4), 8), outputs["rotation_logits"], from_logits=True
        )
        rotation = 2.0 * tf.reduce_mean(rotation)
        instance = 0.5 * model.instance_loss_of(x, outputs, training=False)
    model.backbone.call = call
    norms = [float(tf.norm(tape.gradient(loss, features[0]))) for loss in (rotation, instance)]
    expected = norms[1] / norms[0]
    assert monitor_of(model).measure()["gradient_ratio"] == pytest.approx(expected, rel=1e-4)


def test_measuring_changes_nothing():
    model = model_of(InstanceTask(num_negatives=4))
    before = [to_numpy(v) for v in model.variables]
    monitor_of(model).measure()
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), old)


def test_figures_are_in_the_logs_and_signs_are_told_once(caplog):
    model = model_of()
    monitor = monitor_of(model)
    model.memory_bank.rows.assign(np.ones((N, 128)))
    logs = {}
    for epoch in range(CHANCE_EPOCHS + 2):
        monitor.on_epoch_end(epoch, logs)
    assert {"bank_cosine", "bank_rank", "dead_features", "gradient_ratio"} <= set(logs)
    told = [record for record in caplog.records if "nearly one" in record.getMessage()]
    assert len(told) == 1
    assert f"Epoch {CHANCE_EPOCHS}" in told[0].getMessage()


def test_stop():
    model = model_of()
    model.memory_bank.rows.assign(np.ones((N, 128)))
    monitor = monitor_of(model, on_collapse="stop")
    monitor.on_epoch_end(CHANCE_EPOCHS - 2, {})
    with pytest.raises(CollapseError, match=r"nearly one .*instance_loss"):
        monitor.on_epoch_end(CHANCE_EPOCHS - 1, {})
    with pytest.raises(ValueError, match="'halt'"):
        CollapseMonitor(DATA["image"], "halt")


@pytest.mark.parametrize(
    ("values", "weights", "signs"),
    [
        ({"rotation_accuracy": 0.25}, (1, 1, 1), {"rotation_accuracy"}),
        ({"rotation_accuracy": 0.25}, (0, 1, 1), set()),
        ({"rotation_accuracy": 0.5, "bank_cosine": 0.95}, (1, 1, 1), {"bank_cosine"}),
        ({"bank_cosine": 0.95}, (1, 1, 0), set()),
        ({"bank_cosine": 0.1, "bank_rank": 1.2}, (1, 1, 1), {"bank_rank"}),
        ({"gradient_ratio": 920.0}, (1, 1, 1), {"gradient_ratio"}),
        ({"gradient_ratio": float("nan"), "dead_features": 0.95}, (1, 1, 1), {"dead_features"}),
        ({}, (1, 1, 1), set()),
    ],
)
def test_signs(values, weights, signs):
    assert set(signs_of_collapse(values, CHANCE_EPOCHS, weights)) == signs
    assert not signs_of_collapse(values, CHANCE_EPOCHS - 2, weights)
