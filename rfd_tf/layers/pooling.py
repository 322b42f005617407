"""Pooling that Keras lacks: PyTorch's adaptive maximum, Caffe's rounding, and maxima of slices."""

import functools
import types

import keras
import numpy as np
from keras import ops

from rfd_tf.keras_internals import all_layers


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


@keras.saving.register_keras_serializable(package="rfd_tf")
class CeilMaxPooling2D(keras.layers.MaxPooling2D):
    """Max pooling without padding whose number of windows is rounded up, as Caffe's is.

    A side of n pixels has ceil((n - pool_size) / strides) + 1 windows: a last one that does not fit is cut at
    the edge. Keras drops it.

    Args:
        pool_size, strides: as in `keras.layers.MaxPooling2D`; no stride may be larger than the window.
        **kwargs: its other arguments. `padding` must be "valid".

    Input [B, H, W, C], output [B, ceil((H - pool_size) / strides) + 1, ..., C] of the same dtype.

    Raises:
        ValueError: on another `padding`, channels that come first, or a stride larger than the window.

    Reference: Jia et al., "Caffe", 2014; `PoolingLayer::Reshape`.
    """

    def __init__(self, pool_size=2, strides=None, **kwargs):
        super().__init__(pool_size, strides, **kwargs)
        if self.padding != "valid" or self.data_format != "channels_last":
            raise ValueError(
                "`padding` must be 'valid' and `data_format` 'channels_last'. "
                f"Received: padding={self.padding!r}, data_format={self.data_format!r}"
            )
        if any(stride > size for size, stride in zip(self.pool_size, self.strides, strict=True)):
            raise ValueError(
                f"`strides` must not be larger than `pool_size`. Received: {self.strides}, {self.pool_size}"
            )

    def call(self, inputs):
        # ceil(n / s) is floor((n + s - 1) / s): padding by s - 1 pixels of -inf rounds up.
        more = [(0, 0), *((0, stride - 1) for stride in self.strides), (0, 0)]
        return super().call(ops.pad(inputs, more, constant_values=float("-inf")))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        sides = zip((height, width), self.pool_size, self.strides, strict=True)
        return (batch, *(n and -(-(n - size) // stride) + 1 for n, size, stride in sides), channels)


def pool_by_slices(model: keras.Model) -> None:
    """Let max pools compute as the maximum of slices, one for each place in the window, for XLA's sake.

    The gradient of a max pool is an operation to XLA that it does not fuse with others; those of slices and
    comparisons it does. Without XLA this is slower.

    The values are the same, and so is the rule where pixels tie, as zeros after a ReLU do: the first maximum
    of the window, row by row, gets the whole gradient, as from TensorFlow's, JAX's and PyTorch's own. What is
    not a number stays one.

    Changes the model's layers in place, as `use_space_to_depth` does; they stay Keras's own, also when saved.
    Pools with padding or of channels that come first stay as they are; so do maps of unknown size.
    """
    for layer in all_layers(model):
        plain = type(layer) is keras.layers.MaxPooling2D and layer.padding == "valid"
        if plain and layer.data_format == "channels_last":
            layer.call = types.MethodType(_call_by_slices, layer)


def _call_by_slices(layer: keras.layers.MaxPooling2D, inputs):
    sides = inputs.shape[1:3]
    if any(side is None or side < size for side, size in zip(sides, layer.pool_size, strict=True)):
        return keras.layers.MaxPooling2D.call(layer, inputs)

    def places(axis):
        """The slices along one side, one for each place in the window."""
        size, stride = layer.pool_size[axis], layer.strides[axis]
        span = (sides[axis] - size) // stride * stride + 1
        return [slice(first, first + span, stride) for first in range(size)]

    members = [inputs[:, rows, columns] for rows in places(0) for columns in places(1)]
    # By itself a maximum would share the gradient on JAX. What is left where none is equal is NaN.
    largest = ops.stop_gradient(functools.reduce(ops.maximum, members))
    return functools.reduce(
        lambda later, member: ops.where(member == largest, member, later), reversed(members), largest
    )
