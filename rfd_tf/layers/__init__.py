"""Layers. They run on any Keras backend."""

from rfd_tf.layers.cosine_dense import CosineDense
from rfd_tf.layers.memory_bank import MemoryBank
from rfd_tf.layers.option_a_shortcut import OptionAShortcut

__all__ = ["CosineDense", "MemoryBank", "OptionAShortcut"]
