"""L2 normalisation with a finite gradient at zero."""

from keras import ops


def l2_normalize(x, axis: int = -1, epsilon: float = 1e-12):
    """`x / max(||x||, epsilon)` along `axis`. A zero vector stays zero, and its gradient is finite.

    `keras.ops.normalize` computes the same, but its gradient at a zero vector is NaN. At least float32.
    """
    squared_norm = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return x * ops.rsqrt(ops.maximum(squared_norm, epsilon**2))
