"""Backbones by name, for configs and commands."""

from collections.abc import Sequence
from typing import Any

import keras

from rfd_tf.models.alexnet import FEATURE_NAMES as ALEXNET_FEATURES
from rfd_tf.models.alexnet import alexnet
from rfd_tf.models.backbone import draw_norm_scales, wrap_backbone
from rfd_tf.models.resnet_cifar import DEFAULT_FEATURE_NAMES as RESNET_DEFAULTS
from rfd_tf.models.resnet_cifar import DEPTHS, resnet_cifar
from rfd_tf.models.resnet_cifar import FEATURE_NAMES as RESNET_FEATURES

BACKBONE_NAMES = ("alexnet", *(f"resnet{depth}" for depth in DEPTHS), "keras.applications.NAME")
NORM_SCALE_INITS = ("ones", "uniform")
_APPLICATIONS = "keras.applications."


def create_backbone(
    name: str,
    input_shape: tuple[int, int, int],
    feature_names: Sequence[str] | None = None,
    *,
    width: int = 0,
    dense_width: int = 0,
    norm_scale_init: str = "ones",
    synchronized: bool = False,
) -> keras.Model:
    """A freshly initialised backbone.

    Args:
        name: `alexnet`, `resnet8` ... `resnet110` (the CIFAR ones), or `keras.applications.NAME`, whose
            only feature is `pool`, the spatial mean of its last map.
        input_shape: (height, width, channels).
        feature_names: the features to output; by default those of the published network.
        width: channels of a CIFAR ResNet's first block; 0 is the standard width.
        dense_width: units of the dense layers of `fc_block`; 0 is the standard width.
        norm_scale_init: what batch norm's scales start as: `ones`, or `uniform` in [0, 1), as in PyTorch
            before version 1.2.
        synchronized: synchronised batch norm (own backbones only).

    Raises:
        ValueError: on an unknown name, or an argument that the backbone does not take.
    """
    if norm_scale_init not in NORM_SCALE_INITS:
        raise ValueError(
            f"`norm_scale_init` must be one of {NORM_SCALE_INITS}. Received: {norm_scale_init!r}"
        )
    asked = {"feature_names": feature_names, "width": width, "dense_width": dense_width}
    options: dict[str, Any] = {option: value for option, value in asked.items() if value}
    if name.startswith(_APPLICATIONS):
        backbone = _application(name.removeprefix(_APPLICATIONS), input_shape, **options)
    elif name == "alexnet":
        if width:
            raise ValueError(f"AlexNet has no `width` to choose, only `dense_width`. Received: width={width}")
        backbone = alexnet(input_shape, synchronized=synchronized, **options)
    elif name in (f"resnet{depth}" for depth in DEPTHS):
        depth = int(name.removeprefix("resnet"))
        backbone = resnet_cifar(depth, input_shape, synchronized=synchronized, **options)
    else:
        raise ValueError(f"Unknown backbone {name!r}; known: {', '.join(BACKBONE_NAMES)}")
    if norm_scale_init == "uniform":
        draw_norm_scales(backbone)
    return backbone


def default_feature_names(name: str, needed: str) -> tuple[str, ...] | None:
    """The features of the published network, and `needed` where the backbone has it beyond those.

    None where the backbone has only its default ones to give, or is unknown.
    """
    if name == "alexnet":
        return ALEXNET_FEATURES
    if name in (f"resnet{depth}" for depth in DEPTHS):
        beyond = needed in RESNET_FEATURES and needed not in RESNET_DEFAULTS
        return (*RESNET_DEFAULTS, needed) if beyond else RESNET_DEFAULTS
    return None


def _application(name, input_shape, feature_names=("pool",), **options) -> keras.Model:
    build = getattr(keras.applications, name, None)
    if not callable(build):
        raise ValueError(f"keras.applications has no model {name!r}")
    if options:
        raise ValueError(f"{', '.join(options)} does not apply to keras.applications.{name}")
    if tuple(feature_names) != ("pool",):
        raise ValueError(f"keras.applications.{name} has the feature 'pool' only. Received: {feature_names}")
    model = build(weights=None, include_top=False, pooling="avg", input_shape=input_shape)
    return wrap_backbone(model, {"pool": model.layers[-1].name})
