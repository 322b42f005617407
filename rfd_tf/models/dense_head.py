"""fc6, fc7 and fc8: what AlexNet has on top of its last map."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

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
    """Those of a network's own fc6 and fc7 (`models.alexnet.dense_block`), with batch norm folded in.

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
