import math

import keras

from rfd_tf.callbacks.training_checkpoint import TrainingCheckpoint


class NonFiniteLossError(ArithmeticError):
    """A loss became NaN or infinite. The message names the step and the losses."""


class StopOnNonFinite(keras.callbacks.Callback):
    """Raises `NonFiniteLossError` after the first step that leaves a loss NaN or infinite.

    Put it before callbacks that save. Reads the losses every step.

    Args:
        checkpoint: of the run. A checkpoint of the step before is removed: its weights are those that gave
            the loss. What remains is good.
    """

    def __init__(self, checkpoint: TrainingCheckpoint | None = None):
        super().__init__()
        self.checkpoint = checkpoint

    def on_train_batch_end(self, batch, logs=None):
        losses = {name: float(value) for name, value in (logs or {}).items() if "loss" in name}
        if bad := {name: value for name, value in losses.items() if not math.isfinite(value)}:
            step = int(self.model.optimizer.iterations.numpy())
            if self.checkpoint is not None:
                self.checkpoint.discard(lambda saved: saved == step - 1)
            listed = ", ".join(f"{name}={value}" for name, value in bad.items())
            raise NonFiniteLossError(
                f"Step {step}: {listed}. The checkpoints that remain are from before. Look at the data of "
                "this step, or start with a lower learning rate in a new folder."
            )
