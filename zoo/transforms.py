"""How an array's axes change between a source file (channels first) and Keras (channels last)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Transform:
    """A reversible change of layout.

    Args:
        to_keras: source array -> Keras array; ValueError where the array has another number of axes.
        to_source: its inverse.
    """

    to_keras: Callable[[np.ndarray], np.ndarray]
    to_source: Callable[[np.ndarray], np.ndarray]


def _transposed(*axes: int) -> Transform:
    inverse = tuple(int(axis) for axis in np.argsort(axes))
    return Transform(lambda a: np.transpose(a, axes), lambda a: np.transpose(a, inverse))


IDENTITY = Transform(lambda a: a, lambda a: a)
CONVOLUTION = _transposed(2, 3, 1, 0)  # [out, in, kh, kw] <-> [kh, kw, in, out]
DENSE = _transposed(1, 0)  # [out, in] <-> [in, out]


def dense_after_flatten(height: int, width: int, channels: int) -> Transform:
    """A dense kernel behind a flatten: [out, C*H*W] <-> [H*W*C, out]."""

    def to_keras(array: np.ndarray) -> np.ndarray:
        grid = array.reshape(-1, channels, height, width)
        return grid.transpose(2, 3, 1, 0).reshape(height * width * channels, -1)

    def to_source(array: np.ndarray) -> np.ndarray:
        grid = array.reshape(height, width, channels, -1)
        return grid.transpose(3, 2, 0, 1).reshape(-1, channels * height * width)

    return Transform(to_keras, to_source)
