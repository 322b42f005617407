import keras
from keras import ops


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
