"""Networks whose first weights are about to be overwritten need no random ones."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def blank_start() -> Iterator[None]:
    """Within, this thread's `RandomUniform` initial weights are zeros.

    AlexNet's random start costs half a gigabyte that TensorFlow's allocator keeps, and seconds.
    """
    thread = threading.get_ident()
    draw = keras.initializers.RandomUniform.__call__

    def zeros(self, shape, dtype=None, **kwargs):
        if threading.get_ident() != thread:
            return draw(self, shape, dtype, **kwargs)
        return keras.ops.zeros(shape, dtype)

    keras.initializers.RandomUniform.__call__ = zeros
    try:
        yield
    finally:
        keras.initializers.RandomUniform.__call__ = draw
