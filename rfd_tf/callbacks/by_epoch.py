"""What changes at a known epoch: class weights, rotation weights, the temperature."""

import math

import keras


class DeferredReweighting(keras.callbacks.Callback):
    """Deferred re-weighting (DRW): from `start_epoch` on, class-balanced weights in the loss; before, ones.

    The weights are a function of the epoch alone, so that a resumed run is right from its first step. They
    are a variable: TensorFlow and PyTorch read the new values without a retrace. On JAX a variable that does
    not hang on the model is a constant of the compiled step, which is compiled once more when it changes.

    Args:
        start_epoch: first epoch (from 0) with class-balanced weights; 160 of 200 in the paper.
        beta: in [0, 1), 0.9999 in the paper.
        loss: an `LDAMLoss` (or any loss with `reweight(beta)`); by default every such loss among those that
            the model was compiled with, also of several outputs, or its `rotation_loss`.

    Raises:
        ValueError: on an argument out of range, or where the model's loss cannot be re-weighted.

    Example:
        >>> model.compile("sgd", loss=LDAMLoss(class_counts))
        >>> model.fit(x, y, callbacks=[DeferredReweighting(start_epoch=160, beta=0.9999)])

    Reference: Cao et al., NeurIPS 2019, algorithm 1; Cui et al., CVPR 2019.
    """

    def __init__(self, start_epoch: int, beta: float = 0.9999, loss: keras.losses.Loss | None = None):
        super().__init__()
        if start_epoch < 0:
            raise ValueError(f"`start_epoch` must be at least 0. Received: start_epoch={start_epoch}")
        if not 0 <= beta < 1:
            raise ValueError(f"`beta` must be in [0, 1). Received: beta={beta}")
        self.start_epoch = start_epoch
        self.beta = beta
        self.loss = loss

    def on_train_begin(self, logs=None):
        self._current_beta = None
        candidates = [self.loss]
        if self.loss is None:
            candidates = keras.tree.flatten(getattr(self.model, "loss", None))
            candidates.append(getattr(self.model, "rotation_loss", None))
        self._losses = [candidate for candidate in candidates if hasattr(candidate, "reweight")]
        if not self._losses:
            raise ValueError("DeferredReweighting needs a loss with class weights, such as LDAMLoss")

    def on_epoch_begin(self, epoch, logs=None):
        beta = self.beta if epoch >= self.start_epoch else 0.0
        if beta == self._current_beta:
            return
        changed = self._current_beta is not None
        self._current_beta = beta
        for loss in self._losses:
            loss.reweight(beta)
        if changed and keras.backend.backend() == "jax":
            self.model.make_train_function(force=True)


class InstanceWeighting(keras.callbacks.Callback):
    """Switches the rotation weights of a `RotationDecoupling` model on from `start_epoch` on.

    RFD: 210 of 245. A function of the epoch alone: a resumed run is right from its first step. No retrace.

    Raises:
        ValueError: if `start_epoch` is negative, or the model holds no instance weights.

    Reference: Feng et al., CVPR 2019, section 3.2.
    """

    def __init__(self, start_epoch: int):
        super().__init__()
        if start_epoch < 0:
            raise ValueError(f"`start_epoch` must be at least 0. Received: start_epoch={start_epoch}")
        self.start_epoch = start_epoch

    def on_train_begin(self, logs=None):
        if not hasattr(self.model, "instance_weighting"):
            raise ValueError("InstanceWeighting needs a model made with use_instance_weights=True")

    def on_epoch_begin(self, epoch, logs=None):
        self.model.instance_weighting.assign(1.0 if epoch >= self.start_epoch else 0.0)


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
