import keras
import numpy as np
import pytest

from rfd_tf.callbacks import DeferredReweighting
from rfd_tf.imbalance import class_balanced_weights
from rfd_tf.losses import LDAMLoss

COUNTS = (1000, 100, 10)


def compiled(loss=None):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", loss=loss or LDAMLoss(COUNTS))
    return model


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 4)).astype("float32"), np.arange(12) % 3


class Record(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.weights = {}

    def on_epoch_end(self, epoch, logs=None):
        self.weights[epoch] = keras.ops.convert_to_numpy(self.model.loss.class_weights.value)


def weights_by_epoch(epochs, initial_epoch=0, start_epoch=2, beta=0.999):
    model, record = compiled(), Record()
    drw = DeferredReweighting(start_epoch, beta)
    model.fit(*data(), epochs=epochs, initial_epoch=initial_epoch, verbose=0, callbacks=[drw, record])
    return record.weights


def test_ones_before_the_epoch_and_class_balanced_from_it_on():
    balanced = class_balanced_weights(COUNTS, 0.999)
    for epoch, weights in weights_by_epoch(5).items():
        np.testing.assert_allclose(weights, balanced if epoch >= 2 else np.ones(3), rtol=1e-6)


def test_right_from_the_first_step_of_a_resumed_run():
    balanced = class_balanced_weights(COUNTS, 0.999)
    np.testing.assert_allclose(weights_by_epoch(4, initial_epoch=3)[3], balanced, rtol=1e-6)


def test_stays_in_range_at_any_later_epoch():
    """The authors' code takes beta from a list of two by `epoch // 160` and breaks at epoch 320."""
    balanced = class_balanced_weights(COUNTS, 0.9999)
    drw_epochs = weights_by_epoch(322, initial_epoch=320, start_epoch=160, beta=0.9999)
    np.testing.assert_allclose(drw_epochs[321], balanced, rtol=1e-6)


def test_the_change_reaches_the_compiled_step_without_a_retrace():
    traces = []

    class Traced(LDAMLoss):
        def call(self, y_true, y_pred):
            traces.append(1)
            return super().call(y_true, y_pred)

    model = compiled(Traced(COUNTS))
    x, y = data()
    model.optimizer.learning_rate = 0.0
    drw = DeferredReweighting(start_epoch=1, beta=0.999)
    history = model.fit(x, y, epochs=3, batch_size=12, verbose=0, callbacks=[drw])
    assert len(traces) == 1
    losses = history.history["loss"]
    assert losses[1] == pytest.approx(losses[2])
    assert abs(losses[0] - losses[1]) > 1e-2


@pytest.mark.parametrize(("start_epoch", "beta"), [(-1, 0.9), (0, 1.0), (0, -0.1)])
def test_arguments_out_of_range(start_epoch, beta):
    with pytest.raises(ValueError, match=f"={start_epoch if start_epoch < 0 else beta}"):
        DeferredReweighting(start_epoch, beta)


def test_a_loss_without_class_weights_is_refused():
    model = compiled("mse")
    with pytest.raises(ValueError, match="LDAMLoss"):
        model.fit(*data(), verbose=0, callbacks=[DeferredReweighting(1)])
