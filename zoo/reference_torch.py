"""The layers' arithmetic by PyTorch, where it is installed."""

import warnings

import numpy as np
import torch
from torch.nn import functional


class TorchOps:
    """Layer functions on float32 tensors [B, C, H, W] or [B, C]; the same as `NumpyOps`."""

    name = f"PyTorch {torch.__version__}"

    def array(self, value: np.ndarray) -> torch.Tensor:
        with warnings.catch_warnings():  # the file's arrays are read-only, and nothing writes to them
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(np.require(value, "float32", "A"))

    def numpy(self, value: torch.Tensor) -> np.ndarray:
        return value.numpy()

    def convolution(self, x, weight, bias, stride: int, padding: int):
        return functional.conv2d(x, weight, bias, stride, padding)

    def dense(self, x, weight, bias):
        return functional.linear(x, weight, bias)

    def batch_norm(self, x, weight, bias, mean, variance):
        return functional.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    def relu(self, x):
        return functional.relu(x)

    def max_pool(self, x):
        return functional.max_pool2d(x, 3, 2)

    def flatten(self, x):
        return torch.flatten(x, 1)

    def spatial_mean(self, x):
        return x.mean((2, 3))

    def shortcut(self, x, channels: int):
        extra = (channels - x.shape[1]) // 2
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra, extra))

    def unit_length(self, x):
        return functional.normalize(x, dim=-1)
