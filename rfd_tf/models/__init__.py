"""Backbones and the models trained on them."""

from rfd_tf.models.backbone import any_size, first_layer_filters, select_features, wrap_backbone
from rfd_tf.models.classifiers import MultiLabelClassifier, ProbedModel
from rfd_tf.models.heads import dense_head, dense_weights, linear_probe, nonlinear_probe, set_dense_weights
from rfd_tf.models.inference import extract_features
from rfd_tf.models.libraries import named_features
from rfd_tf.models.networks import alexnet, create_backbone, resnet_cifar
from rfd_tf.models.rotation_decoupling import InstanceTask, RotationDecoupling, RotationTask

__all__ = [
    "InstanceTask",
    "MultiLabelClassifier",
    "ProbedModel",
    "RotationDecoupling",
    "RotationTask",
    "alexnet",
    "any_size",
    "create_backbone",
    "dense_head",
    "dense_weights",
    "extract_features",
    "first_layer_filters",
    "linear_probe",
    "named_features",
    "nonlinear_probe",
    "resnet_cifar",
    "select_features",
    "set_dense_weights",
    "wrap_backbone",
]
