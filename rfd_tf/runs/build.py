"""Backbone and optimizer from a config, and how the model computes on its device."""

import keras
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf.layers import fuse_batch_norm, pool_by_slices, use_space_to_depth
from rfd_tf.models import create_backbone
from rfd_tf.models.libraries import DENSE_WIDTH
from rfd_tf.models.networks import default_feature_names
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.optimizers.sgd import milestone_schedule


def build_backbone(config: ConfigDict, synchronized: bool = False) -> keras.Model:
    """The config's backbone, freshly initialised."""
    size = config.preprocessing.image_size
    wanted = config.backbone
    names = tuple(wanted.features) or default_feature_names(wanted.name, wanted.feature)
    dense_width = wanted.dense_width
    if names is None and wanted.feature == "fc_block":  # besides a library's own features
        dense_width = dense_width or DENSE_WIDTH
    return create_backbone(
        wanted.name,
        (size, size, 3),
        names,
        width=wanted.width,
        dense_width=dense_width,
        norm_scale_init=config.backbone.norm_scale_init,
        synchronized=synchronized,
    )


def initialize(config: ConfigDict, backbone: keras.Model) -> None:
    """Set the backbone's weights to those that `config.init` names, if any: a .keras file or zoo:NAME."""
    if config.init:
        import zoo

        zoo.resolve_init(config.init, backbone)


def measured_feature(config: ConfigDict) -> str:
    """The feature that kNN and linear classifiers are given."""
    return config.knn.feature or config.backbone.feature


def build_optimizer(config: ConfigDict, steps_per_epoch: int) -> CoupledSGD:
    """The config's SGD with its schedule."""
    return CoupledSGD(
        milestone_schedule(config.milestones, steps_per_epoch, config.warmup_epochs),
        momentum=config.momentum,
        nesterov=config.nesterov,
        coupled_weight_decay=config.weight_decay,
        global_clipnorm=config.clip_norm or None,
    )


def specialize_for_device(model: keras.Model) -> None:
    """Have the layers of a run's compiled model compute as is fastest on its device, equal up to rounding."""
    fuse_batch_norm(model)
    if tf.config.list_logical_devices("GPU"):
        use_space_to_depth(model)
        if model.jit_compile:
            pool_by_slices(model)
