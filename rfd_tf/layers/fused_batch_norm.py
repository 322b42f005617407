"""Batch norm's training step as one operation instead of a dozen."""

import types

import keras
from keras import ops

from rfd_tf.keras_internals import all_layers


def fuse_batch_norm(model: keras.Model) -> None:
    """Let the batch norms of a model use TensorFlow's fused operation while they train.

    Keras composes a batch norm of means, differences and products. On a processor each of them passes over
    the whole map: they took a sixth of AlexNet's training step. The fused operation and its gradient compute
    the same, up to rounding, in about a quarter of that time (`benchmarks/NOTES.md`).

    Changes the model's layers in place: call it on a model of yours before `fit`. `rfd train` and its like do
    so with theirs; no layer or model of this package does it to what it is given.

    Only how the layers compute changes: they stay Keras's own, with their variables, also when they are
    saved. Those that it does not fit stay as they are: synchronized over replicas, with renormalisation, in
    doubles, of another axis than the last, of inputs that are not maps [B, H, W, C]; so do all on other
    backends. Inference stays as it is, too.
    """
    if keras.backend.backend() != "tensorflow":
        return
    for layer in all_layers(model):
        if type(layer) is keras.layers.BatchNormalization and _fits(layer):
            layer.call = types.MethodType(_call, layer)


def _fits(layer: keras.layers.BatchNormalization) -> bool:
    if not layer.built or layer.synchronized or layer.renorm:
        return False
    if layer.variable_dtype != "float32" or layer.compute_dtype == "float64":
        return False
    axes = layer.input_spec.axes
    return layer.input_spec.ndim == 4 and (-1 in axes or 3 in axes)


def _call(layer: keras.layers.BatchNormalization, inputs, training=None, mask=None):
    if not (training and layer.trainable and mask is None):
        return keras.layers.BatchNormalization.call(layer, inputs, training=training, mask=mask)
    maps = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    normalized, mean, variance = _normalized(layer, maps)
    share = layer.momentum
    layer.moving_mean.assign(layer.moving_mean * share + mean * (1.0 - share))
    layer.moving_variance.assign(layer.moving_variance * share + variance * (1.0 - share))
    return ops.cast(normalized, layer.compute_dtype)


def _normalized(layer, maps):
    """The output, and the batch's mean and variance (the biased one, as Keras's)."""
    import tensorflow as tf

    channels = maps.shape[-1]
    scale = tf.convert_to_tensor(layer.gamma) if layer.scale else tf.ones([channels])
    offset = tf.convert_to_tensor(layer.beta) if layer.center else tf.zeros([channels])
    found = tf.raw_ops.FusedBatchNormV3(
        x=maps, scale=scale, offset=offset, mean=[], variance=[], epsilon=layer.epsilon, is_training=True
    )
    count = tf.cast(tf.size(maps) // channels, tf.float32)
    unbiased = count / tf.maximum(count - 1, 1)  # is what the operation multiplies the variance by
    return found.y, found.batch_mean, found.batch_variance / unbiased
