"""Losses. They run on any Keras backend."""

from rfd_tf.losses.classification import (
    ClassBalancedLoss,
    CrossEntropyLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    MultiLabelLoss,
)
from rfd_tf.losses.classifier_loss import (
    CLASSIFIER_LOSSES,
    ClassifierLoss,
    classifier_loss,
    classifier_loss_names,
)
from rfd_tf.losses.pretraining import instance_softmax_loss, nce_loss, rotation_invariance_loss

__all__ = [
    "CLASSIFIER_LOSSES",
    "ClassBalancedLoss",
    "ClassifierLoss",
    "CrossEntropyLoss",
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
