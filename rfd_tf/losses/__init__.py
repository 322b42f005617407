"""Losses. They run on any Keras backend."""

from rfd_tf.losses.ldam import LDAMLoss
from rfd_tf.losses.nce import nce_loss
from rfd_tf.losses.rotation_invariance import rotation_invariance_loss

__all__ = ["LDAMLoss", "nce_loss", "rotation_invariance_loss"]
