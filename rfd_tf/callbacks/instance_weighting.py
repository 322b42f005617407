import keras


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
        if not getattr(self.model, "use_instance_weights", False):
            raise ValueError("InstanceWeighting needs a model made with use_instance_weights=True")

    def on_epoch_begin(self, epoch, logs=None):
        self.model.instance_weighting.assign(1.0 if epoch >= self.start_epoch else 0.0)
