"""The small ResNets for 32 x 32 images."""

from collections.abc import Sequence

import keras
from keras import layers, ops

from rfd_tf.models.alexnet import dense_block
from rfd_tf.models.backbone import batch_norm, check_feature_names

FEATURE_NAMES = ("conv1", "block1", "block2", "block3", "pool", "fc_block")
DEFAULT_FEATURE_NAMES = FEATURE_NAMES[:-1]
DEPTHS = (8, 14, 20, 32, 44, 56, 110)


def resnet_cifar(
    depth: int,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    feature_names: Sequence[str] = DEFAULT_FEATURE_NAMES,
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
        feature_names: any of `FEATURE_NAMES`, in any order.
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
    names = check_feature_names(feature_names, FEATURE_NAMES)
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
