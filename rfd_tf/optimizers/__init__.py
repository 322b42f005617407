"""Optimizers and their schedules. They run on any Keras backend."""

from rfd_tf.optimizers.coupled_sgd import CoupledSGD
from rfd_tf.optimizers.milestone_schedule import milestone_schedule

__all__ = ["CoupledSGD", "milestone_schedule"]
