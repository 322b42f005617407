"""What Keras keeps to itself and this package needs; the only module that touches it.

`tests/test_keras_internals.py` fails once Keras has a public way, and where anything else reaches inside. The
work-arounds for Keras under `tf.distribute` are in `rfd_tf.distribution`, with a test each of their own.
"""

from typing import Any


def all_layers(model) -> list:
    """The layers of a model and of the models within it, itself first."""
    return list(model._flatten_layers())


def producer(tensor):
    """The layer that gave a symbolic tensor."""
    return tensor._keras_history.operation


def consumers(layer) -> list:
    """The layers, of any model, that take a layer's output."""
    return [node.operation for node in layer._outbound_nodes]


def mask_of(tensor) -> Any:
    """The mask that travels with a tensor, [B, ...]; None without one."""
    return getattr(tensor, "_keras_mask", None)


def variable_index(optimizer, variable) -> int:
    """The position of a variable among those that an optimizer was built with.

    By position since, under `tf.distribute`, a step is given variables without a path.
    """
    return optimizer._get_variable_index(variable)
