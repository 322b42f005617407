"""Batch norms folded into the layers before them."""

import keras
import numpy as np

from rfd_tf.keras_internals import consumers, producer
from rfd_tf.models.keras_file import blank_start
from rfd_tf.models.parity import compare, outputs, random_images

_FOLDABLE = (keras.layers.Conv2D, keras.layers.Dense)


def fold_batch_norm(backbone: keras.Model) -> keras.Model:
    """The network without batch norm that has the same outputs in inference (to 1e-4, checked).

    `kernel * s` and `beta + (bias - moving_mean) * s` with `s = gamma / sqrt(moving_variance + epsilon)`, the
    scale in float64. Folding AlexNet gives the Caffe form, `alexnet(use_batch_norm=False)`.

    Args:
        backbone: a functional model in which every batch norm follows a convolution or dense layer without
            activation, and nothing else uses that layer's output. It stays as it is.

    Raises:
        ValueError: if there is no batch norm, or one that cannot be folded.
        ParityError: if the outputs differ.

    Reference: the released Caffe network of RFD was made this way.
    """
    pairs = _pairs(backbone)
    with blank_start():
        folded = _clone_without(backbone, pairs)
    norms = set(pairs.values())
    for layer in backbone.layers:
        if layer.weights and layer.name not in norms and layer.name not in pairs:
            folded.get_layer(layer.name).set_weights(layer.get_weights())
    for name, norm in pairs.items():
        layer = backbone.get_layer(name)
        folded.get_layer(name).set_weights(_folded_weights(layer, backbone.get_layer(norm)))
    images = random_images(backbone)
    compare(outputs(folded, images), outputs(backbone, images))
    return folded


def _pairs(backbone: keras.Model) -> dict[str, str]:
    """Convolution or dense layer -> the batch norm behind it."""
    pairs = {}
    for norm in backbone.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        layer = producer(norm.input)
        users = [user for user in consumers(layer) if user in backbone.layers]
        users += [layer for output in backbone.outputs if producer(output) is layer]
        if (
            not isinstance(layer, _FOLDABLE)
            or users != [norm]
            or layer.activation is not keras.activations.linear
        ):
            raise ValueError(
                f"The batch norm {norm.name!r} cannot be folded into {layer.name!r}: it must follow a "
                "convolution or dense layer without activation that nothing else uses"
            )
        if norm.axis not in (-1, len(norm.input.shape) - 1):
            raise ValueError(
                f"The batch norm {norm.name!r} works on axis {norm.axis}; only the last can be folded"
            )
        pairs[layer.name] = norm.name
    if not pairs:
        raise ValueError(f"The network {backbone.name!r} has no batch norm to fold")
    return pairs


def _clone_without(backbone: keras.Model, pairs: dict[str, str]) -> keras.Model:
    norms = set(pairs.values())

    def clone(layer):
        config = layer.get_config()
        if layer.name in pairs:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        return args[0] if layer.name in norms else layer(*args, **kwargs)

    return keras.models.clone_model(backbone, clone_function=clone, call_function=call)


def _folded_weights(layer, norm) -> list[np.ndarray]:
    kernel, *bias = layer.get_weights()
    mean, variance = (np.asarray(v, "float64") for v in (norm.moving_mean, norm.moving_variance))
    scale = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma, "float64")
    shift = np.asarray(norm.beta, "float64") if norm.center else 0.0
    old_bias = bias[0] if bias else 0.0
    return [kernel * scale.astype("float32"), (shift + (old_bias - mean) * scale).astype("float32")]
