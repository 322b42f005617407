import keras
import numpy as np
import pytest

from rfd_tf.callbacks import TemperatureSchedule
from rfd_tf.models import InstanceTask, RotationDecoupling, resnet_cifar

N = 16
rng = np.random.default_rng(0)
DATA = {
    "image": rng.normal(size=(N, 8, 8, 3)).astype("float32"),
    "index": np.arange(N),
    "negatives": rng.integers(0, N, (N, 4)).astype("int32"),
}


def model_of(**options):
    keras.utils.set_random_seed(0)
    backbone = resnet_cifar(8, (8, 8, 3), ["pool"], width=4)
    model = RotationDecoupling(backbone, N, instance_task=InstanceTask(num_negatives=4, **options))
    model.compile(keras.optimizers.SGD(1e-3))
    return model


def test_swings_between_the_two():
    found = [TemperatureSchedule(0.1, 0.9, 8).temperature(epoch) for epoch in range(17)]
    np.testing.assert_allclose(found[:5], 0.5 + 0.4 * np.cos(2 * np.pi * np.arange(5) / 8), rtol=1e-12)
    assert found[0] == found[8] == found[16] == 0.9
    assert found[4] == pytest.approx(0.1)
    np.testing.assert_allclose(found[:9], found[8:])


def test_the_loss_is_that_of_a_fixed_temperature():
    """Of one whose normalizer was set at that temperature, too; training and validation."""
    swinging, fixed = model_of(temperature=0.5), model_of(temperature=0.2)
    swinging.set_temperature(0.2)
    fixed.set_weights(swinging.get_weights())
    for training in (True, False):
        losses = []
        for model in (swinging, fixed):
            outputs = model(DATA, training=False)
            losses.append(float(model.compute_loss(x=DATA, y_pred=outputs, training=training)))
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    normalizers = [float(model.memory_bank.normalizer) for model in (swinging, fixed)]
    assert normalizers[0] == pytest.approx(normalizers[1], rel=1e-5)


def test_normalizer_follows_the_temperature():
    model = model_of()
    seen = []

    class Read(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append([float(model.memory_bank.current_temperature), float(model.memory_bank.normalizer)])

        def on_epoch_end(self, epoch, logs=None):
            seen[-1].append(float(model.memory_bank.normalizer))

    model.fit(DATA, batch_size=8, epochs=3, verbose=0, callbacks=[TemperatureSchedule(0.1, 1.0, 4), Read()])
    temperatures, before, after = zip(*seen, strict=True)
    np.testing.assert_allclose(temperatures, [1.0, 0.55, 0.1], rtol=1e-6)
    assert before == (0.0, 0.0, 0.0)
    assert len({*after}) == 3
    assert min(after) > 0
    model.set_temperature(temperatures[-1])  # as a run that resumes within the epoch does
    assert float(model.memory_bank.normalizer) == after[-1]


def test_survives_the_disk(tmp_path):
    model = model_of()
    model.set_temperature(0.3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert float(again.memory_bank.current_temperature) == pytest.approx(0.3)


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 8), (0.5, 0.1, 8), (0.1, 1.0, 1)])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="Received"):
        TemperatureSchedule(*arguments)


def test_a_temperature_is_positive():
    with pytest.raises(ValueError, match="positive"):
        model_of().set_temperature(0.0)
