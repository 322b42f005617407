import keras
from keras import ops


@keras.saving.register_keras_serializable(package="rfd_tf")
class MultiLabelLoss(keras.losses.Loss):
    """Sigmoid cross-entropy of images that show any number of classes.

    An image's loss is the sum over the classes, as published code has it, not their mean. A class of which
    it is not to be asked whether it is there adds nothing.

    Args:
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B, C], 1 where a class is in the image, -1 where it is not, 0 where that does not count (in
            PASCAL VOC: only difficult objects of it are there).
        y_pred: logits [B, C].

    Raises:
        ValueError: on shapes that differ.

    Reference: Krähenbühl et al., ICLR 2016, "Data-dependent initializations of CNNs", and its code.
    """

    def __init__(self, name: str = "multi_label_loss", reduction: str = "sum_over_batch_size", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype or keras.config.floatx())

    def call(self, y_true, y_pred):
        """Losses [B]."""
        if len(y_pred.shape) != 2 or tuple(y_true.shape[1:]) != tuple(y_pred.shape[1:]):
            raise ValueError(
                f"`y_true` and `y_pred` must be [B, C] both. Received: {y_true.shape}, {y_pred.shape}"
            )
        truth = ops.cast(y_true, self.dtype)
        # -log sigmoid(z) where the class is there, -log sigmoid(-z) where not.
        losses = ops.softplus(-truth * ops.cast(y_pred, self.dtype))
        return ops.sum(losses * ops.abs(truth), axis=-1)

    def get_config(self):
        return {**super().get_config(), "dtype": keras.backend.standardize_dtype(self.dtype)}
