"""Layers. They run on any Keras backend."""

from rfd_tf.layers.cosine_dense import CosineDense
from rfd_tf.layers.memory_bank import MemoryBank

__all__ = ["CosineDense", "MemoryBank"]
