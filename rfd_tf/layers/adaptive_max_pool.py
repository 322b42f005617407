import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="rfd_tf")
class AdaptiveMaxPool2D(keras.layers.Layer):
    """Maximum over `size` x `size` bins that cover the whole map, whatever its height and width.

    Bin i of a side of length n spans [floor(i * n / size), ceil((i + 1) * n / size)), as in PyTorch: bins
    overlap where `size` does not divide n, and repeat pixels where n < `size`. Pixels of a bin that
    share its maximum share the gradient, too; PyTorch gives it to one of them.

    `keras.layers.AdaptiveMaxPooling2D` (3.15) cannot replace it: with one bin per side it crashes TensorFlow,
    and on JAX some of its bins are wrong (14 pixels to 7 bins, 26 to 13).

    Input [B, H, W, C] with H and W known, output [B, size, size, C] of the same dtype.

    Args:
        size: bins per side, at least 1.

    Raises:
        ValueError: if `size` is below 1, or the input is not a batch of maps of known height and width.

    Example:
        >>> pooled = AdaptiveMaxPool2D(6)(maps)  # [batch, 6, 6, channels]

    Reference: `torch.nn.AdaptiveMaxPool2d`.
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        if size < 1:
            raise ValueError(f"`size` must be at least 1. Received: size={size}")
        self.size = size

    def call(self, inputs):
        # Bins are products of an interval of rows and one of columns: one side after the other.
        _, height, width, _ = _checked(inputs.shape)
        return self._pool(self._pool(inputs, height, 1), width, 2)

    def _pool(self, inputs, length: int, axis: int):
        if length == self.size:
            return inputs  # every bin is one pixel
        return ops.max(ops.take(inputs, bin_members(length, self.size), axis=axis), axis=axis + 1)

    def compute_output_shape(self, input_shape):
        batch, _, _, channels = _checked(input_shape)
        return (batch, self.size, self.size, channels)

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def bin_members(length: int, size: int) -> np.ndarray:
    """Pixels of each bin, int32 [size, m]; shorter bins name their last pixel again."""
    bins = np.arange(size)
    first = bins * length // size
    last = -(-(bins + 1) * length // size) - 1
    return np.minimum(first[:, None] + np.arange((last - first).max() + 1), last[:, None]).astype("int32")


def _checked(shape) -> tuple:
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(f"Maps must have shape [B, H, W, C], all but B known. Received: {tuple(shape)}")
    return tuple(shape)
