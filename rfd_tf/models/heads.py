"""Probes on feature maps, and AlexNet's fc6, fc7 and fc8."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from rfd_tf.layers import AdaptiveMaxPool2D, CosineDense
from rfd_tf.models.backbone import batch_norm, fan_in_uniform

Weights = tuple[np.ndarray, np.ndarray]  # kernel [in, units], bias [units]


def dense_head(
    feature_shape: tuple[int, ...],
    num_classes: int,
    widths: Sequence[int] = (4096, 4096),
    dropout: float = 0.5,
) -> keras.Model:
    """A functional model from a map [H, W, C] or a vector [D] to logits: dense layers with ReLU and dropout.

    All weights start as N(0, 0.01), all biases at 0.1.

    Args:
        feature_shape: of one image, all known.
        num_classes: logits.
        widths: units of fc6 and fc7.
        dropout: in [0, 1), after each of them.

    Raises:
        ValueError: on a number out of range.

    Reference: Krähenbühl et al., ICLR 2016, "Data-dependent initializations of CNNs", and its code.
    """
    if len(widths) != 2 or min(widths) < 1 or not 0 <= dropout < 1:
        raise ValueError(
            f"`widths` must be two positive numbers, `dropout` in [0, 1). Received: {widths}, {dropout}"
        )
    options = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.01)}
    options["bias_initializer"] = keras.initializers.Constant(0.1)
    inputs = keras.Input(feature_shape, name="feature")
    x = layers.Flatten(name="head_flatten")(inputs)
    for name, width in zip(("fc6", "fc7"), widths, strict=True):
        x = layers.Dense(width, activation="relu", name=f"head_{name}", **options)(x)
        x = layers.Dropout(dropout, name=f"head_{name}_dropout")(x)
    logits = layers.Dense(num_classes, name="head_fc8", dtype=keras.config.floatx(), **options)(x)
    return keras.Model(inputs, logits, name="dense_head")


def set_dense_weights(head: keras.Model, weights: Sequence[Weights]) -> None:
    """Let fc6 and fc7 of a `dense_head` begin with `weights`."""
    for name, pair in zip(("head_fc6", "head_fc7"), weights, strict=True):
        head.get_layer(name).set_weights(pair)


def dense_weights(network: keras.Model, feature_shape: tuple[int, ...]) -> tuple[Weights, Weights] | None:
    """Those of a network's own fc6 and fc7 (`models.backbone.dense_block`), with batch norm folded in.

    `kernel * s` and `beta + (bias - mean) * s` with s = gamma / sqrt(variance + epsilon), of its running
    statistics.

    Returns:
        None where there are no such layers, or fc6 takes something else than a feature of that shape.
    """
    found = {layer.name: layer for layer in network.layers}
    if "fc6" not in found or "fc7" not in found:
        return None
    fc6, fc7 = (_folded(found[name], found.get(f"{name}_bn")) for name in ("fc6", "fc7"))
    return (fc6, fc7) if len(fc6[0]) == np.prod(feature_shape) else None


def _folded(dense: layers.Dense, norm: layers.BatchNormalization | None) -> Weights:
    kernel, *bias = (value.astype("float64") for value in dense.get_weights())
    bias = bias[0] if bias else np.zeros(kernel.shape[1])
    if norm is not None:
        gamma, beta, mean, variance = (value.astype("float64") for value in norm.get_weights())
        scale = gamma / np.sqrt(variance + norm.epsilon)
        kernel, bias = kernel * scale, beta + (bias - mean) * scale
    return kernel.astype("float32"), bias.astype("float32")


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
