"""A network's first convolution as one on blocks of pixels: more channels, no stride."""

import types

import keras
from keras import ops

from rfd_tf.keras_internals import all_layers

_MOST_CHANNELS = 4


def use_space_to_depth(model: keras.Model) -> None:
    """Let strided convolutions of images compute on blocks of pixels instead.

    With stride s, s x s pixels of C channels become one of s * s * C, and a kernel of k x k, filled up with
    zeros, one of ceil(k / s) x ceil(k / s): AlexNet's 11 x 11 of stride 4 on 3 channels is 3 x 3 on 48. The
    sums are the same up to rounding, and so are the gradients. GPUs lack fast kernels for three channels.

    Changes the model's layers in place: call it on a model of yours before `fit`. `rfd train` and its like do
    so with theirs on a GPU; no layer or model of this package does it to what it is given.

    Only how the layers compute changes: they stay Keras's own, with their variables, also when they are
    saved. Those that it does not fit stay as they are: of more than 4 channels, not strided or not alike in
    both directions, with Keras's own padding, dilated, grouped, channels first; and where the size of the
    images is not known, those that it fits compute as before.
    """
    for layer in all_layers(model):
        if type(layer) is keras.layers.Conv2D and _fits(layer):
            layer.convolution_op = types.MethodType(_convolved, layer)


def _fits(layer: keras.layers.Conv2D) -> bool:
    stride = layer.strides[0]
    return (
        layer.built
        and layer.kernel.shape[2] <= _MOST_CHANNELS
        and layer.strides == (stride, stride)
        and 1 < stride < min(layer.kernel_size)
        and (layer.padding, layer.groups, layer.data_format) == ("valid", 1, "channels_last")
        and layer.dilation_rate == (1, 1)
    )


def _convolved(layer: keras.layers.Conv2D, images, kernel):
    stride, sizes, sides = layer.strides[0], layer.kernel_size, images.shape[1:3]
    if any(side is None or side < size for side, size in zip(sides, sizes, strict=True)):
        return keras.layers.Conv2D.convolution_op(layer, images, kernel)
    filled = [-(-size // stride) * stride for size in sizes]
    # What the windows reach: beyond the images by less than a block, or not all of them.
    reached = [
        (side - size) // stride * stride + long for side, size, long in zip(sides, sizes, filled, strict=True)
    ]
    images = _padded(images[:, : reached[0], : reached[1]], [(0, 0), *_missing(sides, reached), (0, 0)])
    kernel = _padded(kernel, [*_missing(sizes, filled), (0, 0), (0, 0)])
    images = _blocks(images, stride, 1)
    kernel = _blocks(kernel, stride, 0)
    return ops.conv(images, kernel, strides=1, padding="valid", data_format="channels_last")


def _missing(sides, wanted) -> list[tuple[int, int]]:
    return [(0, max(most - side, 0)) for side, most in zip(sides, wanted, strict=True)]


def _padded(values, amounts):
    return ops.pad(values, amounts) if any(map(any, amounts)) else values


def _blocks(values, size: int, axis: int):
    """Blocks of `size` x `size` along two axes from `axis` on, joined with the channels, which come next."""
    shape = list(values.shape)
    height, width, channels = shape[axis : axis + 3]
    before, after = shape[:axis], shape[axis + 3 :]
    before = [-1] * len(before)  # the batch
    split = ops.reshape(values, (*before, height // size, size, width // size, size, channels, *after))
    order = [0, 2, 1, 3, 4]
    axes = [*range(axis), *(axis + place for place in order), *range(axis + 5, axis + 5 + len(after))]
    joined = ops.transpose(split, axes)
    return ops.reshape(joined, (*before, height // size, width // size, size * size * channels, *after))
