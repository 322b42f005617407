"""Optimizers and their schedules. They run on any Keras backend."""

from rfd_tf.optimizers.sgd import CoupledSGD, milestone_schedule

__all__ = ["CoupledSGD", "milestone_schedule"]
