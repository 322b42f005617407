import math

import keras


class NonFiniteLossError(ArithmeticError):
    """A loss became NaN or infinite. The message names the step and the losses."""


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises `NonFiniteLossError` after the first step that leaves a loss NaN or infinite.

    Put it before callbacks that save, and the last checkpoint stays a good one. Reads the losses every step.
    """

    def on_train_batch_end(self, batch, logs=None):
        losses = {name: float(value) for name, value in (logs or {}).items() if "loss" in name}
        if bad := {name: value for name, value in losses.items() if not math.isfinite(value)}:
            step = int(self.model.optimizer.iterations)
            listed = ", ".join(f"{name}={value}" for name, value in bad.items())
            raise NonFiniteLossError(
                f"Step {step}: {listed}. Lower the learning rate, or look at the data of this step; "
                "the last checkpoint is from before."
            )
