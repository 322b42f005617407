"""The layers' arithmetic in plain NumPy, channels first: an oracle that shares nothing with Keras."""

import numpy as np


class NumpyOps:
    """Layer functions on float32 arrays [B, C, H, W] or [B, C]."""

    name = f"NumPy {np.__version__}"

    def array(self, value: np.ndarray) -> np.ndarray:
        return np.asarray(value, "float32")

    def numpy(self, value: np.ndarray) -> np.ndarray:
        return value

    def convolution(self, x, weight, bias, stride: int, padding: int):
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        height, width = weight.shape[2:]
        windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), (2, 3))
        y = np.tensordot(windows[:, :, ::stride, ::stride], weight, ((1, 4, 5), (1, 2, 3)))
        y = np.moveaxis(y, -1, 1)
        return y if bias is None else y + bias[:, None, None]

    def dense(self, x, weight, bias):
        y = x @ weight.T
        return y if bias is None else y + bias

    def batch_norm(self, x, weight, bias, mean, variance):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, scale = mean.reshape(shape), (weight / np.sqrt(variance + 1e-5)).reshape(shape)
        return (x - mean) * scale + bias.reshape(shape)

    def relu(self, x):
        return np.maximum(x, 0)

    def max_pool(self, x):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
        return windows[:, :, ::2, ::2].max((4, 5))

    def flatten(self, x):
        return x.reshape(len(x), -1)

    def spatial_mean(self, x):
        return x.mean((2, 3))

    def shortcut(self, x, channels: int):
        """Every second pixel, and zero channels on both sides."""
        extra = (channels - x.shape[1]) // 2
        return np.pad(x[:, :, ::2, ::2], ((0, 0), (extra, extra), (0, 0), (0, 0)))

    def unit_length(self, x):
        return x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)
