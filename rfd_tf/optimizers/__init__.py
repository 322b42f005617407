"""Optimizers. They run on any Keras backend."""

from rfd_tf.optimizers.coupled_sgd import CoupledSGD

__all__ = ["CoupledSGD"]
