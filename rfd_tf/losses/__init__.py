"""Losses. They run on any Keras backend."""

from rfd_tf.losses.class_balanced import ClassBalancedLoss
from rfd_tf.losses.classifier_loss import (
    CLASSIFIER_LOSSES,
    ClassifierLoss,
    classifier_loss,
    classifier_loss_names,
)
from rfd_tf.losses.focal import FocalLoss
from rfd_tf.losses.instance import instance_softmax_loss, nce_loss
from rfd_tf.losses.ldam import LDAMLoss
from rfd_tf.losses.logit_adjusted import LogitAdjustedLoss
from rfd_tf.losses.multi_label import MultiLabelLoss
from rfd_tf.losses.rotation_invariance import rotation_invariance_loss

__all__ = [
    "CLASSIFIER_LOSSES",
    "ClassBalancedLoss",
    "ClassifierLoss",
    "FocalLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "MultiLabelLoss",
    "classifier_loss",
    "classifier_loss_names",
    "instance_softmax_loss",
    "nce_loss",
    "rotation_invariance_loss",
]
