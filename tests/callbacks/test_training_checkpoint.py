import keras
import numpy as np
import pytest

from rfd_tf.callbacks import TrainingCheckpoint
from rfd_tf.models import InstanceTask, RotationDecoupling, resnet_cifar

STEPS = 4


def model_of(units=3, seed=0):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    return model


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8 * STEPS, 4)).astype("float32"), rng.normal(size=(8 * STEPS, 3)).astype(
        "float32"
    )


def fit(model, callbacks, epochs=1):
    return model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)


def state(model):
    return [keras.ops.convert_to_numpy(v.value) for v in [*model.variables, *model.optimizer.variables]]


def test_saves_every_epoch_and_every_so_many_steps_and_keeps_the_newest(tmp_path):
    checkpoint = TrainingCheckpoint(tmp_path, STEPS, every_steps=3, keep=2)
    fit(model_of(), [checkpoint], epochs=3)
    assert checkpoint.steps() == [9, 12]


def test_restores_model_optimizer_and_random_states(tmp_path):
    model = model_of()
    fit(model, [TrainingCheckpoint(tmp_path, STEPS)])
    other = model_of(seed=1)
    TrainingCheckpoint(tmp_path, STEPS).restore(other, STEPS)
    for value, expected in zip(state(other), state(model), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert int(other.optimizer.iterations) == STEPS


def test_running_metrics_come_back_in_the_middle_of_an_epoch(tmp_path):
    """The logs of an epoch that was interrupted after two of four steps are those of the whole epoch."""
    data = {
        "image": np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32"),
        "index": np.arange(16),
        "negatives": np.arange(16)[:, None],
    }

    def run(data, checkpoint, restored_step=0):
        backbone = resnet_cifar(8, (8, 8, 3), ["pool"], width=2)
        model = RotationDecoupling(backbone, 16, instance_task=InstanceTask(num_negatives=1))
        model.compile("sgd")
        model.optimizer.build(model.trainable_variables)
        if restored_step:
            checkpoint.restore(model, restored_step)
        return model.fit(data, batch_size=4, shuffle=False, verbose=0, callbacks=[checkpoint]).history

    expected = run(data, TrainingCheckpoint(tmp_path, STEPS, every_steps=2))
    rest = {name: values[8:] for name, values in data.items()}
    history = run(rest, TrainingCheckpoint(tmp_path, STEPS), restored_step=2)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-6)


def test_what_was_interrupted_is_no_checkpoint_and_is_cleaned(tmp_path):
    (tmp_path / "partial-1").mkdir()
    (tmp_path / "partial-1" / "state.h5").write_bytes(b"half")
    checkpoint = TrainingCheckpoint(tmp_path, STEPS)
    assert checkpoint.steps() == []
    checkpoint.clean()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    fit(model_of(), [TrainingCheckpoint(tmp_path, STEPS)])
    other = model_of(units=5)
    before = state(other)
    with pytest.raises(ValueError, match=r"kernel \(4, 3\) where this model has .*kernel \(4, 5\)"):
        TrainingCheckpoint(tmp_path, STEPS).restore(other, STEPS)
    for value, expected in zip(state(other), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_bad_arguments(tmp_path):
    for arguments in ({"every_steps": -1}, {"keep": 0}, {"steps_per_epoch": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            TrainingCheckpoint(tmp_path, **{"steps_per_epoch": STEPS, **arguments})
