"""AlexNet, with batch norm (the network of RFD) or without (its Caffe form)."""

from collections.abc import Sequence

import keras
from keras import layers

from rfd_tf.models.backbone import batch_norm, check_feature_names, fan_in_uniform

# name: (filters, kernel size, stride, padding)
_CONVOLUTIONS = {
    "conv1": (64, 11, 4, 2),
    "conv2": (192, 5, 1, 2),
    "conv3": (384, 3, 1, 1),
    "conv4": (256, 3, 1, 1),
    "conv5": (256, 3, 1, 1),
}
_POOL_AFTER = {"conv1": "pool1", "conv2": "pool2", "conv5": "pool5"}
FEATURE_NAMES = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc_block")


def alexnet(
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    feature_names: Sequence[str] = FEATURE_NAMES,
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
        feature_names: any of `FEATURE_NAMES`, in any order.
        dense_width: units of the two dense layers.
        use_batch_norm: without, the dense layers have biases: the form of the released Caffe network.
        synchronized: whether batch norm takes its statistics over all replicas of a `tf.distribute` strategy.
        name: the model's name.

    Raises:
        ValueError: on unknown or repeated features, or an input too small for pool5.

    Reference: Feng et al., CVPR 2019 (RFD); the layers follow Gidaris et al., ICLR 2018 (RotNet).
    """
    names = check_feature_names(feature_names, FEATURE_NAMES)
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


def dense_block(x, width: int, use_batch_norm: bool = True, synchronized: bool = False):
    """Flatten, then two dense layers of `width` units, each with batch norm (or a bias) and ReLU."""
    x = layers.Flatten(name="flatten")(x)
    for dense, activation in (("fc6", "fc6_relu"), ("fc7", "fc_block")):
        fan_in = x.shape[-1]
        x = layers.Dense(
            width,
            use_bias=not use_batch_norm,
            kernel_initializer=fan_in_uniform(fan_in),
            bias_initializer=fan_in_uniform(fan_in),
            name=dense,
        )(x)
        if use_batch_norm:
            x = batch_norm(f"{dense}_bn", synchronized)(x)
        x = layers.ReLU(name=activation)(x)
    return x
