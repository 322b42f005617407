import math

import keras


class TemperatureSchedule(keras.callbacks.Callback):
    """Swings the contrast's temperature of a `RotationDecoupling` model between two values, by epoch.

    `T(e) = low + (high - low) (1 + cos(2 pi e / period)) / 2`: `high` in epoch 0, `low` half a period later.
    High temperatures group what is alike, which frequent classes gain by; low ones tell instances apart, from
    which rare classes gain.

    The normalizer Z belongs to a temperature: where that changes, the first batch of the epoch sets Z anew
    (the paper's losses have none). A function of the epoch alone: a resumed run is right from its first step.

    Args:
        low, high: the two temperatures, 0 < low <= high.
        period: epochs from `high` to `high`, at least 2.

    Raises:
        ValueError: on an argument out of range.

    Reference: Kukleva et al., "Temperature Schedules for Self-Supervised Contrastive Methods on Long-Tail
        Data", ICLR 2023, equation 4.
    """

    def __init__(self, low: float, high: float, period: int):
        super().__init__()
        if not 0 < low <= high:
            raise ValueError(f"Temperatures must satisfy 0 < low <= high. Received: low={low}, high={high}")
        if period < 2:
            raise ValueError(f"`period` must be at least 2 epochs. Received: period={period}")
        self.low = low
        self.high = high
        self.period = period

    def temperature(self, epoch: int) -> float:
        """That of epoch `epoch`, from 0."""
        swing = (1 + math.cos(2 * math.pi * epoch / self.period)) / 2
        return self.low + (self.high - self.low) * swing

    def on_epoch_begin(self, epoch, logs=None):
        self.model.set_temperature(self.temperature(epoch))
