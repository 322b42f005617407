"""What a mixed-precision policy must not touch: logits, embeddings, losses, bank, conversions, exports."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras import ops

from rfd_tf.keras_internals import all_layers


def full_precision(value):
    """`value` in `keras.config.floatx()`, float32 by default, whatever the dtype policy computes in."""
    return ops.cast(value, keras.config.floatx())


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
    before = to_float32(model)
    try:
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def to_float32(model: keras.Model) -> list[tuple[keras.layers.Layer, keras.DTypePolicy]]:
    """Have every layer of `model` compute in float32; the layers that did not, with their former policies."""
    before = [(layer, layer.dtype_policy) for layer in all_layers(model)]
    before = [(layer, policy) for layer, policy in before if policy.compute_dtype != "float32"]
    for layer, _ in before:
        layer.dtype_policy = "float32"
    return before
