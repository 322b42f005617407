"""L2 normalisation with a finite gradient at zero."""

import keras
from keras import ops

from rfd_tf.precision import full_precision


def l2_normalize(x, axis: int = -1, epsilon: float = 1e-12):
    """`x / max(||x||, epsilon)` along `axis`. A zero vector stays zero, and its gradient is finite.

    `keras.ops.normalize` computes the same, but its gradient at a zero vector is NaN. At least float32.
    """
    squared_norm = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x * ops.rsqrt(ops.maximum(squared_norm, epsilon**2))


@keras.saving.register_keras_serializable(package="rfd_tf")
class CosineDense(keras.layers.Layer):
    """Classifier whose logits are cosines between the features and the class weights; no bias.

    Input [..., D], output [..., units] in [-1, 1], in full precision under a mixed policy too. Each class
    weight starts as a random direction of unit norm; norms never matter to the output. A loss such as
    `rfd_tf.losses.LDAMLoss` scales the cosines.

    Args:
        units: number of classes, at least 2.

    Raises:
        ValueError: if `units` is below 2.

    Example:
        >>> logits = CosineDense(10)(features)  # [batch, 10]

    Reference: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        NeurIPS 2019, section 3.2 and appendix (normalised last layer).
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        if units < 2:
            raise ValueError(f"`units` must be at least 2. Received: units={units}")
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], self.units), initializer=_unit_columns, autocast=False
        )

    def call(self, inputs):
        return ops.matmul(l2_normalize(full_precision(inputs)), l2_normalize(self.kernel, axis=0))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=keras.config.floatx())

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def _unit_columns(shape, dtype=None):
    return l2_normalize(keras.initializers.RandomUniform(-1.0, 1.0)(shape, dtype), axis=0)
