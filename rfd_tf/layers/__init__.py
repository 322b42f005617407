"""Layers. They run on any Keras backend."""

from rfd_tf.layers.cosine_dense import CosineDense
from rfd_tf.layers.option_a_shortcut import OptionAShortcut

__all__ = ["CosineDense", "OptionAShortcut"]
