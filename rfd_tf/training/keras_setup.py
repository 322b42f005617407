"""Keras and TensorFlow as a config wants them."""

import os

import keras
import tensorflow as tf
from ml_collections import ConfigDict

DTYPE_POLICIES = ("float32", "mixed_bfloat16")


def check_dtype_policy(policy: str) -> None:
    """Raise ValueError on a policy that is none of `DTYPE_POLICIES`."""
    if policy not in DTYPE_POLICIES:
        raise ValueError(f"`dtype_policy` must be one of {DTYPE_POLICIES}. Received: {policy!r}")


def set_up_keras(config: ConfigDict) -> None:
    """Set seed, dtype policy and determinism of this process by the config's fields of these names."""
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.dtype_policy)
    if config.deterministic:
        # A scatter's order does not matter to the bank: the rows of a batch are distinct. TensorFlow's
        # deterministic one would copy the whole table to the host and back in every step on a GPU.
        os.environ["TF_DISABLE_SCATTER_OP_DETERMINISM"] = "1"
        tf.config.experimental.enable_op_determinism()
