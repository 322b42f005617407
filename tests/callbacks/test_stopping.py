import os
import signal

import keras
import numpy as np
import pytest

from rfd_tf.callbacks import (
    GracefulStop,
    NonFiniteLossError,
    StopOnNonFinite,
    TrainingCheckpoint,
    TrainingStopped,
)

STEPS = 4
X = np.ones((8 * STEPS, 4), "float32")


def model_of():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    return model


class SendSignal(keras.callbacks.Callback):
    def __init__(self, at_step, number):
        super().__init__()
        self.at_step = at_step
        self.number = number

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.at_step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("at_step", "stopped_after"), [(1, 2), (3, 4)])
def test_a_signal_saves_after_the_step_and_stops(tmp_path, number, at_step, stopped_after):
    """A signal in an epoch's last step lets the epoch end, with its validation and logs."""
    before = signal.getsignal(number)
    checkpoint = TrainingCheckpoint(tmp_path, STEPS)
    stop = GracefulStop(checkpoint)
    with pytest.raises(TrainingStopped, match=f"{number.name}: saved after step {stopped_after}."):
        model_of().fit(
            X,
            X[:, :1],
            batch_size=8,
            epochs=3,
            verbose=0,
            callbacks=[SendSignal(at_step, number), checkpoint, stop],
        )
    assert checkpoint.steps() == [stopped_after]
    assert signal.getsignal(number) is before


def test_signals_go_back_to_their_handlers_after_training(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    checkpoint = TrainingCheckpoint(tmp_path, 1)
    model_of().fit(X, X[:, :1], verbose=0, callbacks=[checkpoint, GracefulStop(checkpoint)])
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_loss_that_is_not_finite_names_step_and_loss_and_saves_nothing_more(tmp_path):
    targets = X[:, :1].copy()
    targets[8 * 2] = np.nan  # in the third step
    checkpoint = TrainingCheckpoint(tmp_path, STEPS, every_steps=1, keep=10)
    with pytest.raises(NonFiniteLossError, match=r"Step 3: loss=nan"):
        model_of().fit(
            X, targets, batch_size=8, shuffle=False, verbose=0, callbacks=[StopOnNonFinite(), checkpoint]
        )
    assert checkpoint.steps() == [1, 2]
