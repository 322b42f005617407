"""Classifiers on one feature of a frozen network, as functional models from that feature to logits."""

import math

import keras
from keras import layers

from rfd_tf.layers import AdaptiveMaxPool2D, CosineDense
from rfd_tf.models.torch_defaults import batch_norm, fan_in_uniform

_POOLED_VALUES = 9600


def default_pool_size(channels: int, side: int) -> int:
    """Bins per side that leave a linear probe about 9600 values.

    The largest s with s * s * channels <= 9600, no more than the map's side: the published 12, 7, 5, 6, 6 for
    AlexNet's conv1 to conv5.
    """
    return max(1, min(math.isqrt(_POOLED_VALUES // channels), side))


def linear_probe(
    feature_shape: tuple[int, ...],
    num_classes: int,
    *,
    pool_size: int = 0,
    cosine: bool = False,
    zero_start: bool = False,
    synchronized: bool = False,
    name: str = "linear_probe",
) -> keras.Model:
    """Adaptive max pool to `pool_size`, batch norm without scale and shift, flatten, dense.

    Args:
        feature_shape: [H, W, C] of a map, or [D] of a vector, which is not pooled.
        num_classes: logits.
        pool_size: bins per side; 0 for `default_pool_size`.
        cosine: end with `CosineDense` instead, for losses over cosines.
        zero_start: the dense layer's weights start at 0 instead of N(0, sqrt(2 / num_classes)).
        synchronized: batch-norm statistics over all replicas.
        name: the model's name, with which those of its layers begin. Probes of one model need different
            names: Keras on PyTorch tells variables by their paths.

    Raises:
        ValueError: on a feature of another rank.

    Reference: Feng et al., CVPR 2019 (RFD).
    """
    inputs = x = keras.Input(_checked(feature_shape), name="feature")
    if len(feature_shape) == 3:
        size = pool_size or default_pool_size(feature_shape[-1], min(feature_shape[:2]))
        x = AdaptiveMaxPool2D(size, name=f"{name}_pool")(x)
    x = batch_norm(f"{name}_bn", synchronized, affine=False)(x)
    x = layers.Flatten(name=f"{name}_flatten")(x)
    logits = classifier(x, num_classes, cosine, f"{name}_classifier", "zeros" if zero_start else None)
    return keras.Model(inputs, logits, name=name)


def nonlinear_probe(
    feature_shape: tuple[int, ...],
    num_classes: int,
    *,
    convolution: bool = False,
    width: int = 4096,
    cosine: bool = False,
    synchronized: bool = False,
    name: str = "nonlinear_probe",
) -> keras.Model:
    """What follows conv5 in AlexNet: max pool, then two dense layers with batch norm, then the classifier.

    Args:
        feature_shape: [H, W, C] of a map with sides of 3 or more, or [D] of a vector, which is not pooled.
        num_classes: logits.
        convolution: begin with a 3x3 convolution, batch norm and ReLU that keep the shape (conv4's).
        width: units of the two dense layers, 4096 in the original.
        cosine, synchronized, name: as of `linear_probe`.

    Raises:
        ValueError: on a feature that cannot be convolved or pooled.

    Reference: Feng et al., CVPR 2019 (RFD).
    """
    inputs = x = keras.Input(_checked(feature_shape), name="feature")
    if convolution:
        x = _convolution(x, synchronized, f"{name}_conv")
    if len(feature_shape) == 3:
        if min(feature_shape[:2]) < 3:
            raise ValueError(f"A 3x3 max pool needs a map of sides >= 3. Received: {tuple(feature_shape)}")
        x = layers.MaxPooling2D(3, 2, name=f"{name}_pool")(x)
    x = layers.Flatten(name=f"{name}_flatten")(x)
    for number in (1, 2):
        kernel = _fan_out_normal(width)
        x = layers.Dense(width, use_bias=False, kernel_initializer=kernel, name=f"{name}_dense{number}")(x)
        x = batch_norm(f"{name}_dense{number}_bn", synchronized)(x)
        x = layers.ReLU(name=f"{name}_dense{number}_relu")(x)
    return keras.Model(inputs, classifier(x, num_classes, cosine, f"{name}_classifier"), name=name)


def classifier(
    x, num_classes: int, cosine: bool, name: str, kernel_initializer=None, bias_initializer="zeros"
):
    """Logits [B, num_classes] of vectors, in full precision under a mixed policy too: dense, or cosines.

    A dense layer's kernel starts as N(0, sqrt(2 / num_classes)) and its bias as 0, RFD's way, unless
    initializers are given.
    """
    if cosine:
        return CosineDense(num_classes, name=name)(x)
    return layers.Dense(
        num_classes,
        kernel_initializer=kernel_initializer or _fan_out_normal(num_classes),
        bias_initializer=bias_initializer,
        dtype=keras.config.floatx(),
        name=name,
    )(x)


def _convolution(x, synchronized: bool, name: str):
    if len(x.shape) != 4:
        raise ValueError(f"A convolution needs a map [H, W, C]. Received: {tuple(x.shape[1:])}")
    channels = x.shape[-1]
    x = layers.Conv2D(
        channels,
        3,
        padding="same",
        kernel_initializer=_fan_out_normal(9 * channels),
        bias_initializer=fan_in_uniform(9 * channels),
        name=name,
    )(x)
    return layers.ReLU(name=f"{name}_relu")(batch_norm(f"{name}_bn", synchronized)(x))


def _fan_out_normal(fan_out: int) -> keras.initializers.Initializer:
    """The original's: N(0, sqrt(2 / fan_out)), fan_out the units of a dense layer, 9 * C of a convolution."""
    return keras.initializers.RandomNormal(stddev=math.sqrt(2 / fan_out))


def _checked(feature_shape) -> tuple[int, ...]:
    shape = tuple(feature_shape)
    if len(shape) not in (1, 3) or not all(shape):
        raise ValueError(f"A feature must have shape [H, W, C] or [D], all known. Received: {shape}")
    return shape
