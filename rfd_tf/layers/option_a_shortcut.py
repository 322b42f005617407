import keras
from keras import ops


@keras.saving.register_keras_serializable(package="rfd_tf")
class OptionAShortcut(keras.layers.Layer):
    """Parameter-free residual shortcut of CIFAR ResNets: every `strides`-th pixel, zero-padded channels.

    Input [B, H, W, C], output [B, ceil(H / strides), ceil(W / strides), filters]; the added channels are
    split evenly before and after the input's.

    Args:
        filters: output channels, at least those of the input and of the same parity.
        strides: spatial step, at least 1.

    Raises:
        ValueError: where `filters` cannot be reached by padding both sides alike.

    Reference: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 (option A).
    """

    def __init__(self, filters: int, strides: int = 2, **kwargs):
        super().__init__(**kwargs)
        if strides < 1:
            raise ValueError(f"`strides` must be at least 1. Received: strides={strides}")
        self.filters = filters
        self.strides = strides

    def build(self, input_shape):
        missing = self.filters - input_shape[-1]
        if missing < 0 or missing % 2:
            raise ValueError(
                f"`filters` must exceed the input's channels by an even number. "
                f"Received: filters={self.filters}, input channels={input_shape[-1]}"
            )

    def call(self, inputs):
        side = (self.filters - inputs.shape[-1]) // 2
        subsampled = inputs[:, :: self.strides, :: self.strides, :]
        return ops.pad(subsampled, [[0, 0], [0, 0], [0, 0], [side, side]])

    def compute_output_shape(self, input_shape):
        def reduce(size):
            return None if size is None else -(-size // self.strides)

        return (input_shape[0], reduce(input_shape[1]), reduce(input_shape[2]), self.filters)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}
