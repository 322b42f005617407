"""What backbones share: PyTorch's initial weights, features by name, inputs of any size."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from rfd_tf.keras_internals import consumers
from rfd_tf.layers import CeilMaxPooling2D


def fan_in_uniform(fan_in: int) -> keras.initializers.Initializer:
    """Uniform in ±1/sqrt(fan_in): PyTorch's default for the kernels and biases of dense and conv layers.

    One for each variable: a Keras initializer draws the same numbers whenever it is called.
    """
    bound = 1.0 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-bound, bound)


def dense(units: int, fan_in: int, name: str, dtype=None) -> keras.layers.Dense:
    """A dense layer as PyTorch begins it."""
    return keras.layers.Dense(
        units,
        kernel_initializer=fan_in_uniform(fan_in),
        bias_initializer=fan_in_uniform(fan_in),
        dtype=dtype,
        name=name,
    )


def draw_norm_scales(model: keras.Model) -> None:
    """Have the scale of every batch norm start uniform in [0, 1), as PyTorch did before version 1.2.

    Changes the model in place: for one that was just made.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            layer.gamma.assign(keras.random.uniform(layer.gamma.shape))


def batch_norm(name: str, synchronized: bool = False, affine: bool = True) -> keras.layers.BatchNormalization:
    """Batch norm with PyTorch's epsilon and momentum (0.1 there is 0.9 here), `affine` as there.

    PyTorch keeps the unbiased variance as running variance, Keras the biased one: for n values per channel
    they differ by the factor n / (n - 1), in inference only.
    """
    return keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, center=affine, scale=affine, synchronized=synchronized, name=name
    )


def dense_block(x, width: int, use_batch_norm: bool = True, synchronized: bool = False):
    """Flatten, then two dense layers of `width` units, each with batch norm (or a bias) and ReLU."""
    x = keras.layers.Flatten(name="flatten")(x)
    for dense, activation in (("fc6", "fc6_relu"), ("fc7", "fc_block")):
        fan_in = x.shape[-1]
        x = keras.layers.Dense(
            width,
            use_bias=not use_batch_norm,
            kernel_initializer=fan_in_uniform(fan_in),
            bias_initializer=fan_in_uniform(fan_in),
            name=dense,
        )(x)
        if use_batch_norm:
            x = batch_norm(f"{dense}_bn", synchronized)(x)
        x = keras.layers.ReLU(name=activation)(x)
    return x


def check_feature_names(feature_names: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """`feature_names` as a tuple; an empty, unknown or repeated name raises ValueError."""
    if isinstance(feature_names, str):
        raise ValueError(
            f"`feature_names` must be a sequence of names. Received the string {feature_names!r}"
        )
    names = tuple(feature_names)
    if not names:
        raise ValueError(f"`feature_names` is empty; available: {', '.join(available)}")
    if unknown := [name for name in names if name not in available]:
        raise ValueError(f"Unknown feature {unknown[0]!r}; available: {', '.join(available)}")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"Feature {repeated[0]!r} is asked for more than once")
    return names


def wrap_backbone(model: keras.Model, layers: Mapping[str, str], name: str | None = None) -> keras.Model:
    """Make a backbone of any functional Keras model by naming the layers whose outputs are its features.

    Weights are shared with `model`.

    Args:
        model: a functional model with one input, for example from `keras.applications`.
        layers: feature name -> layer name.
        name: name of the new model; by default that of `model`.

    Raises:
        ValueError: if `model` is not functional, has several inputs, or lacks a named layer.

    Example:
        >>> resnet = keras.applications.ResNet50(weights=None, include_top=False, pooling="avg")
        >>> backbone = wrap_backbone(resnet, {"conv5": "conv5_block3_out", "pool": "avg_pool"})
    """
    inputs = getattr(model, "inputs", None)  # only functional models know their inputs
    if not isinstance(model, keras.Model) or not inputs:
        raise ValueError(f"A backbone must be a functional Keras model. Received: {model!r}")
    if len(inputs) != 1:
        raise ValueError(f"A backbone must have one input; {model.name!r} has {len(inputs)}")
    if not layers:
        raise ValueError("`layers` is empty: name at least one feature")
    known = {layer.name for layer in model.layers}
    for feature, layer in layers.items():
        if layer not in known:
            raise ValueError(f"Feature {feature!r}: {model.name!r} has no layer {layer!r}")
    outputs = {feature: model.get_layer(layer).output for feature, layer in layers.items()}
    return keras.Model(inputs[0], outputs, name=name or model.name)


def select_features(backbone: keras.Model, feature_names: Sequence[str]) -> keras.Model:
    """The same backbone, same weights, with these of its features only, in this order.

    Every feature of our own backbones is also the name of a layer, so a feature that was not an output before
    can be asked for as well.
    """
    available = [layer.name for layer in backbone.layers]
    outputs = dict(backbone.output) if isinstance(backbone.output, dict) else {}
    names = check_feature_names(feature_names, [*outputs, *(n for n in available if n not in outputs)])
    selected = {name: outputs[name] if name in outputs else backbone.get_layer(name).output for name in names}
    return keras.Model(backbone.inputs[0], selected, name=backbone.name)


def first_layer_filters(backbone: keras.Model) -> np.ndarray:
    """First convolution's kernels with the scale of its batch norm folded in, float32 [kh, kw, in, out].

    `kernel * gamma / sqrt(moving_variance + epsilon)`; the bare kernel where no batch norm follows.
    """
    layers = backbone.layers
    for layer in layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), dtype="float32")
            followers = consumers(layer)
            norms = [f for f in followers if isinstance(f, keras.layers.BatchNormalization) and f in layers]
            if norms:
                norm = norms[0]
                variance = keras.ops.convert_to_numpy(norm.moving_variance)
                scale = 1.0 / np.sqrt(variance + norm.epsilon)
                if norm.scale:
                    scale = scale * keras.ops.convert_to_numpy(norm.gamma)
                kernel = kernel * scale
            return kernel.astype("float32")
    raise ValueError(f"{backbone.name!r} has no convolution")


def half_width(backbone: keras.Model, feature_name: str) -> int:
    """D / 2 of a backbone's feature [B, D] that is to be split in halves; ValueError where it cannot be."""
    if not isinstance(backbone.output, dict) or feature_name not in backbone.output:
        raise ValueError(f"The backbone {backbone.name!r} has no feature {feature_name!r}")
    shape = backbone.output[feature_name].shape
    if len(shape) != 2 or shape[-1] % 2:
        raise ValueError(
            f"Feature {feature_name!r} of {backbone.name!r} must be [B, D] with D even to be split. "
            f"Its shape is {shape}"
        )
    return shape[-1] // 2


def any_size(backbone: keras.Model, feature: str, ceil_pools: bool = False) -> keras.Model:
    """A backbone up to one of its maps, for images of any height and width, with weights of its own.

    Args:
        backbone: functional, with a dict of outputs.
        feature: the name of a map.
        ceil_pools: whether max pools without padding round the number of their windows up, as Caffe's do. It
            shows at sizes that the windows do not fit.

    Returns:
        A functional model from images [B, H, W, C] to that map.

    Raises:
        ValueError: if there is no such output, it is not a map, or a layer before it needs a fixed size.
    """
    if feature not in backbone.output:
        raise ValueError(f"{backbone.name!r} has no output {feature!r}; it has {', '.join(backbone.output)}")
    if len(backbone.output[feature].shape) != 4:
        raise ValueError(f"The output {feature!r} of {backbone.name!r} is not a map [B, H, W, C]")
    part = keras.Model(backbone.inputs[0], backbone.output[feature], name=backbone.name)
    images = keras.Input((None, None, backbone.inputs[0].shape[-1]), name="image")

    def cloned(layer):
        rounded = ceil_pools and type(layer) is keras.layers.MaxPooling2D and layer.padding == "valid"
        kind = CeilMaxPooling2D if rounded else type(layer)
        return kind.from_config(layer.get_config())

    try:
        again = keras.models.clone_model(part, input_tensors=images, clone_function=cloned)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{backbone.name!r} cannot do with images of any size: {error}") from error
    again.set_weights(part.get_weights())
    return again
