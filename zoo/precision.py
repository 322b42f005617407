"""The zoo builds and compares in float32, whatever the precision of the networks around it."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def float32_policy() -> Iterator[None]:
    """Within, this thread builds its layers with the policy `float32`; then with the one before again."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextmanager
def computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Within, every layer of `model` computes in float32; then with its own policy again."""
    before = [(layer, layer.dtype_policy) for layer in model._flatten_layers()]
    before = [(layer, policy) for layer, policy in before if policy.compute_dtype != "float32"]
    try:
        for layer, _ in before:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy
