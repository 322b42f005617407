"""The networks by name: AlexNet and the CIFAR ResNets, and those of libraries."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

from rfd_tf.models.backbone import (
    batch_norm,
    check_feature_names,
    dense_block,
    draw_norm_scales,
    fan_in_uniform,
)
from rfd_tf.models.keras_file import read_keras
from rfd_tf.models.libraries import library_model, named_features

# name: (filters, kernel size, stride, padding)
_CONVOLUTIONS = {
    "conv1": (64, 11, 4, 2),
    "conv2": (192, 5, 1, 2),
    "conv3": (384, 3, 1, 1),
    "conv4": (256, 3, 1, 1),
    "conv5": (256, 3, 1, 1),
}
_POOL_AFTER = {"conv1": "pool1", "conv2": "pool2", "conv5": "pool5"}
ALEXNET_FEATURES = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc_block")


def alexnet(
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    feature_names: Sequence[str] = ALEXNET_FEATURES,
    *,
    dense_width: int = 4096,
    use_batch_norm: bool = True,
    synchronized: bool = False,
    name: str = "alexnet",
) -> keras.Model:
    """AlexNet as a functional model from images to a dict of feature maps.

    Convolutions pad explicitly and alike on both sides. At 224 x 224 the features are conv1 [B, 55, 55, 64],
    pool1 [B, 27, 27, 64], conv2 [B, 27, 27, 192], pool2 [B, 13, 13, 192], conv3 [B, 13, 13, 384],
    conv4 and conv5 [B, 13, 13, 256], pool5 [B, 6, 6, 256] and fc_block [B, 4096]; every one after its ReLU.

    Args:
        input_shape: (height, width, channels) of normalised images; 63 x 63 at least. Height and width may
            be None where `fc_block` is not asked for.
        feature_names: any of `ALEXNET_FEATURES`, in any order.
        dense_width: units of the two dense layers.
        use_batch_norm: without, the dense layers have biases: the form of the released Caffe network.
        synchronized: whether batch norm takes its statistics over all replicas of a `tf.distribute` strategy.
        name: the model's name.

    Raises:
        ValueError: on unknown or repeated features, or an input too small for pool5.

    Reference: Feng et al., CVPR 2019 (RFD); the layers follow Gidaris et al., ICLR 2018 (RotNet).
    """
    names = check_feature_names(feature_names, ALEXNET_FEATURES)
    _check_input_shape(input_shape, needs_fixed_size="fc_block" in names)
    inputs = keras.Input(input_shape, name="image")
    features = {}
    x = inputs
    for conv in _CONVOLUTIONS:
        x = features[conv] = _convolution(x, conv, use_batch_norm, synchronized)
        if pool := _POOL_AFTER.get(conv):
            x = features[pool] = layers.MaxPooling2D(3, 2, name=pool)(x)
    if "fc_block" in names:
        features["fc_block"] = dense_block(x, dense_width, use_batch_norm, synchronized)
    return keras.Model(inputs, {feature: features[feature] for feature in names}, name=name)


def _check_input_shape(input_shape, needs_fixed_size: bool) -> None:
    if len(input_shape) != 3:
        raise ValueError(f"`input_shape` must be (height, width, channels). Received: {input_shape}")
    for size in input_shape[:2]:
        if size is None and needs_fixed_size:
            raise ValueError(f"The feature fc_block needs a fixed `input_shape`. Received: {input_shape}")
        if size is not None and size < 63:
            raise ValueError(f"`input_shape` leaves pool5 empty: 63 x 63 at least. Received: {input_shape}")


def _convolution(x, name: str, use_batch_norm: bool, synchronized: bool):
    filters, kernel, stride, padding = _CONVOLUTIONS[name]
    fan_in = kernel * kernel * x.shape[-1]
    # With stride 1 Keras's "same" is that padding, and copies neither the map nor its gradient.
    same = stride == 1
    if not same:
        x = layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    x = layers.Conv2D(
        filters,
        kernel,
        stride,
        padding="same" if same else "valid",
        kernel_initializer=fan_in_uniform(fan_in),
        bias_initializer=fan_in_uniform(fan_in),
        name=f"{name}_conv",
    )(x)
    if use_batch_norm:
        x = batch_norm(f"{name}_bn", synchronized)(x)
    return layers.ReLU(name=name)(x)


RESNET_FEATURES = ("conv1", "block1", "block2", "block3", "pool", "fc_block")
RESNET_DEFAULTS = RESNET_FEATURES[:-1]
DEPTHS = (8, 14, 20, 32, 44, 56, 110)


def resnet_cifar(
    depth: int,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    feature_names: Sequence[str] = RESNET_DEFAULTS,
    *,
    width: int = 16,
    dense_width: int = 256,
    synchronized: bool = False,
    name: str | None = None,
) -> keras.Model:
    """CIFAR ResNet with option-A shortcuts, as a functional model from images to a dict of feature maps.

    At 32 x 32 with the default width the features are conv1 and block1 [B, 32, 32, 16],
    block2 [B, 16, 16, 32], block3 [B, 8, 8, 64] and pool [B, 64] (the mean over space).

    On request there is `fc_block` [B, dense_width], AlexNet's two dense layers with batch norm on top of the
    pool, not part of the published network. The pool's features are positive means, much alike from image to
    image at first: halves of them hardly learn to tell instances apart, halves of fc_block do.

    Args:
        depth: 20, 32, 44, 56 or 110 as published; 8 or 14 for less (6n + 2 layers).
        input_shape: (height, width, channels) of normalised images; height and width may be None.
        feature_names: any of `RESNET_FEATURES`, in any order.
        width: channels of the first block; the pooled feature has four times as many.
        dense_width: units of the two dense layers of `fc_block`.
        synchronized: whether batch norm takes its statistics over all replicas of a `tf.distribute` strategy.
        name: the model's name, by default `resnet{depth}`.

    Raises:
        ValueError: on another depth, an odd width, or unknown or repeated features.

    Reference: He et al., CVPR 2016, section 4.2; initial weights He-normal by fan-in.
    """
    if depth not in DEPTHS:
        raise ValueError(f"`depth` must be one of {DEPTHS}. Received: depth={depth}")
    if width < 2 or width % 2:
        raise ValueError(f"`width` must be even and positive. Received: width={width}")
    names = check_feature_names(feature_names, RESNET_FEATURES)
    inputs = keras.Input(input_shape, name="image")
    features = {}
    x = _conv_bn(inputs, width, 1, "conv1", synchronized)
    x = features["conv1"] = layers.ReLU(name="conv1")(x)
    units = (depth - 2) // 6
    for block in (1, 2, 3):
        filters = width * 2 ** (block - 1)
        for unit in range(units):
            strides = 2 if block > 1 and unit == 0 else 1
            last = unit == units - 1
            x = _residual_unit(x, filters, strides, f"block{block}", f"_unit{unit}", last, synchronized)
        features[f"block{block}"] = x
    features["pool"] = layers.GlobalAveragePooling2D(name="pool")(x)
    if "fc_block" in names:
        features["fc_block"] = dense_block(features["pool"], dense_width, synchronized=synchronized)
    outputs = {feature: features[feature] for feature in names}
    return keras.Model(inputs, outputs, name=name or f"resnet{depth}")


def _conv_bn(x, filters: int, strides: int, prefix: str, synchronized: bool):
    fan_in = 9 * x.shape[-1]
    # With stride 1 Keras's "same" pads alike on both sides, and copies neither the map nor its gradient.
    same = strides == 1
    if not same:
        x = layers.ZeroPadding2D(1, name=f"{prefix}_pad")(x)
    x = layers.Conv2D(
        filters,
        3,
        strides,
        padding="same" if same else "valid",
        use_bias=False,
        # PyTorch's kaiming_normal_: not truncated.
        kernel_initializer=keras.initializers.RandomNormal(stddev=(2.0 / fan_in) ** 0.5),
        name=f"{prefix}_conv",
    )(x)
    return batch_norm(f"{prefix}_bn", synchronized)(x)


def _option_a_shortcut(x, filters: int, strides: int, name: str):
    """Without parameters: every `strides`-th pixel, with channels of zeros on either side.

    Of built-in operations only, so that a saved backbone can be loaded without this package.
    """
    side = (filters - x.shape[-1]) // 2
    x = layers.MaxPooling2D(1, strides, name=name)(x)
    return ops.pad(x, [[0, 0], [0, 0], [0, 0], [side, side]])


def _residual_unit(x, filters, strides, block, unit, last, synchronized):
    prefix = block + unit
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = _option_a_shortcut(x, filters, strides, f"{prefix}_shortcut")
    x = _conv_bn(x, filters, strides, f"{prefix}_1", synchronized)
    x = layers.ReLU(name=f"{prefix}_1_relu")(x)
    x = _conv_bn(x, filters, 1, f"{prefix}_2", synchronized)
    x = layers.Add(name=f"{prefix}_add")([x, shortcut])
    # The last activation of a block is the block's feature, and its layer carries that name.
    return layers.ReLU(name=block if last else f"{prefix}_relu")(x)


BACKBONE_NAMES = (
    "alexnet",
    *(f"resnet{depth}" for depth in DEPTHS),
    "keras.applications.NAME",
    "keras_cv.NAME",
    "keras_hub.NAME",
    "module:function",
    "FILE.keras",
)
NORM_SCALE_INITS = ("ones", "uniform")


def create_backbone(
    name: str | keras.Model,
    input_shape: tuple[int, int, int] | None = None,
    feature_names: Sequence[str] | None = None,
    *,
    width: int = 0,
    dense_width: int = 0,
    norm_scale_init: str = "ones",
    synchronized: bool = False,
) -> keras.Model:
    """A backbone: a functional model from normalised images to a dict of named features, freshly initialised.

    Args:
        name: `alexnet`; `resnet8` ... `resnet110` (the CIFAR ones); `keras.applications.NAME`,
            `keras_cv.NAME` or `keras_hub.NAME`, such as `keras_cv.ResNet18`; `module:function`, a function of
            yours from `input_shape` to a functional model; or such a model itself, or its `.keras` file,
            which keeps its weights.
            Features of all but the first two are those of `models.named_features`: its outputs, if they are a
            dict; else `stage2` ... `stage5` (strides 4 ... 32) and `pool`; and `fc_block`.
        input_shape: (height, width, channels). Not needed for a model.
        feature_names: the features to output; by default those of the published network, or all.
        width: channels of a CIFAR ResNet's first block; 0 is the standard width.
        dense_width: units of the dense layers of `fc_block`; 0 is the standard width.
        norm_scale_init: what batch norm's scales start as: `ones`, or `uniform` in [0, 1), as in PyTorch
            before version 1.2.
        synchronized: whether batch norm takes its statistics over all replicas of a `tf.distribute` strategy.

    Raises:
        ValueError: on an unknown name, or an argument that the backbone does not take.
        ImportError: if the library is not installed.
    """
    if norm_scale_init not in NORM_SCALE_INITS:
        raise ValueError(
            f"`norm_scale_init` must be one of {NORM_SCALE_INITS}. Received: {norm_scale_init!r}"
        )
    asked = {"feature_names": feature_names, "dense_width": dense_width}
    options: dict[str, Any] = {option: value for option, value in asked.items() if value}
    options["synchronized"] = synchronized
    if not isinstance(name, str):
        if norm_scale_init != "ones" or width:
            raise ValueError(
                "A model comes as it is: without `width`, and with `norm_scale_init='ones'`. "
                f"Received: width={width}, norm_scale_init={norm_scale_init!r}"
            )
        return named_features(name, **options)
    if input_shape is None:
        raise ValueError(f"`input_shape` is needed to make {name!r}. Received: None")
    if name in _CIFAR_RESNETS:
        options |= {"width": width} if width else {}
        backbone = resnet_cifar(_CIFAR_RESNETS[name], input_shape, **options)
    elif width:
        raise ValueError(f"`width` is that of a CIFAR ResNet. Received: width={width} with {name}")
    elif name == "alexnet":
        backbone = alexnet(input_shape, **options)
    elif name.endswith(".keras"):
        backbone = named_features(read_keras(Path(name)), **options)
        if tuple(backbone.input_shape[1:]) not in (tuple(input_shape or ()), (None, None, 3)):
            raise ValueError(f"{name} takes images {backbone.input_shape[1:]}, not {input_shape}")
    elif (model := library_model(name, input_shape)) is not None:
        backbone = named_features(model, **options)
    else:
        raise ValueError(f"Unknown backbone {name!r}; known: {', '.join(BACKBONE_NAMES)}")
    if norm_scale_init == "uniform":
        draw_norm_scales(backbone)
    return backbone


_CIFAR_RESNETS = {f"resnet{depth}": depth for depth in DEPTHS}


def default_feature_names(name: str, needed: str) -> tuple[str, ...] | None:
    """The features of the published network, and `needed` where the backbone has it beyond those.

    None where the backbone has only its default ones to give, or is unknown.
    """
    if name == "alexnet":
        return ALEXNET_FEATURES
    if name in _CIFAR_RESNETS:
        beyond = needed in RESNET_FEATURES and needed not in RESNET_DEFAULTS
        return (*RESNET_DEFAULTS, needed) if beyond else RESNET_DEFAULTS
    return None
