"""What a mixed-precision policy must not touch: logits, embeddings, losses and the memory bank."""

import keras
from keras import ops


def full_precision(value):
    """`value` in `keras.config.floatx()`, float32 by default, whatever the dtype policy computes in."""
    return ops.cast(value, keras.config.floatx())
