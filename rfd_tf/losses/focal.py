import keras
from keras import ops

from rfd_tf.losses.class_logits_loss import ClassLogitsLoss, class_cross_entropies


@keras.saving.register_keras_serializable(package="rfd_tf")
class FocalLoss(ClassLogitsLoss):
    """Cross-entropy times `(1 - p) ** gamma`, p the probability of the true class: easy examples count less.

    Over a softmax, without the class weights alpha. For a distribution q over the classes it is
    `-sum_j q_j (1 - p_j) ** gamma log p_j`, as in Keras's `CategoricalFocalCrossentropy`, which clips
    probabilities and so stops the gradient of the hardest examples.

    Args:
        gamma: at least 0; 0 gives the plain cross-entropy, 2 is the paper's.
        name: the loss's name.
        reduction, dtype: as of `keras.losses.Loss`.

    Call args:
        y_true: [B] (or [B, 1]) integer labels in [0, C), or [B, C] one-hot or soft labels.
        y_pred: [B, C] logits.
        sample_weight: optional [B].

    Raises:
        ValueError: if `gamma` is negative or not finite, and as `ClassLogitsLoss`.

    Reference: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        name: str = "focal_loss",
        reduction: str = "sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(None, name, reduction, dtype)
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"`gamma` must be at least 0 and finite. Received: gamma={gamma}")
        self.gamma = gamma

    def example_losses(self, shares, logits):
        probabilities = ops.softmax(logits, axis=-1)
        likeliest = ops.one_hot(ops.argmax(probabilities, axis=-1), logits.shape[-1], dtype=self.dtype)
        # 1 - p; of the likeliest class the sum of the others', as the difference would be rounded away.
        rest = ops.sum((1.0 - likeliest) * probabilities, axis=-1, keepdims=True)
        others = likeliest * rest + (1.0 - likeliest) * (1.0 - probabilities)
        # The floor keeps the gradient of the power finite for gamma < 1.
        floor = 6e-8 if self.dtype == "float16" else 1e-37
        factors = ops.power(ops.maximum(others, floor), self.gamma)
        return ops.sum(shares * factors * class_cross_entropies(shares, logits), axis=-1)

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma}
