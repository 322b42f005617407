"""What every backbone is: a functional `keras.Model` from an image batch to a dict of named feature maps."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np


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
            followers = [node.operation for node in layer._outbound_nodes]
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
