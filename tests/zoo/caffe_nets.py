"""Keras forms of the two Caffe examples, with their weight maps."""

import keras
from keras import layers

from zoo.weight_maps import CONVOLUTION, DENSE, Rule, WeightMap, dense_after_flatten


def lenet() -> tuple[keras.Model, WeightMap]:
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(20, 5, name="conv1")(inputs)
    x = layers.MaxPooling2D(2, 2)(x)
    x = layers.Conv2D(50, 5, name="conv2")(x)
    x = layers.Flatten()(layers.MaxPooling2D(2, 2)(x))
    x = layers.Dense(500, activation="relu", name="ip1")(x)
    outputs = layers.Dense(10, activation="softmax", name="ip2")(x)
    return keras.Model(inputs, outputs), _map(("conv1", "conv2"), (4, 4, 50))


def cifar10_quick() -> tuple[keras.Model, WeightMap]:
    """Caffe pools with ceil rounding: for these even sizes that is Keras's `same`."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(32, 5, padding="same", name="conv1")(inputs)
    x = layers.ReLU()(layers.MaxPooling2D(3, 2, padding="same")(x))
    x = layers.Conv2D(32, 5, padding="same", activation="relu", name="conv2")(x)
    x = layers.AveragePooling2D(3, 2, padding="same")(x)
    x = layers.Conv2D(64, 5, padding="same", activation="relu", name="conv3")(x)
    x = layers.Flatten()(layers.AveragePooling2D(3, 2, padding="same")(x))
    x = layers.Dense(64, name="ip1")(x)
    outputs = layers.Dense(10, activation="softmax", name="ip2")(x)
    return keras.Model(inputs, outputs), _map(("conv1", "conv2", "conv3"), (4, 4, 64))


def _map(convolutions, flattened) -> WeightMap:
    kernels = dict.fromkeys(convolutions, CONVOLUTION)
    kernels |= {"ip1": dense_after_flatten(*flattened), "ip2": DENSE}
    rules = [Rule(f"{name}/0", f"{name}/kernel", transform) for name, transform in kernels.items()]
    return WeightMap((*rules, *(Rule(f"{name}/1", f"{name}/bias") for name in kernels)))


def alexnet_prototxt(width: int, size: int, *, norm: bool) -> bytes:
    """AlexNet as Caffe text, with the layer names of the zoo; each block's output is the blob `NAME_relu`."""
    lines = [
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 '
        f"dim: {size} dim: {size} }} }} }}"
    ]
    top = "data"

    def layer(name, kind, parameters=""):
        nonlocal top
        lines.append(f'layer {{ name: "{name}" type: "{kind}" bottom: "{top}" top: "{name}" {parameters} }}')
        top = name

    def finish(name):
        if norm:
            layer(f"{name}_bn", "BatchNorm", "batch_norm_param { use_global_stats: true eps: 1e-5 }")
            layer(f"{name}_scale", "Scale", "scale_param { bias_term: true }")
        layer(f"{name}_relu", "ReLU")

    sizes = {"conv1": (64, 11, 4, 2), "conv2": (192, 5, 1, 2), "conv3": (384, 3, 1, 1)}
    sizes |= {"conv4": (256, 3, 1, 1), "conv5": (256, 3, 1, 1)}
    for name, (filters, kernel, stride, pad) in sizes.items():
        numbers = f"num_output: {filters} kernel_size: {kernel} stride: {stride} pad: {pad}"
        layer(name, "Convolution", f"convolution_param {{ {numbers} }}")
        finish(name)
        if name in ("conv1", "conv2", "conv5"):
            layer(f"pool{name[-1]}", "Pooling", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }")
    for name in ("fc6", "fc7"):
        bias = str(not norm).lower()
        layer(name, "InnerProduct", f"inner_product_param {{ num_output: {width} bias_term: {bias} }}")
        finish(name)
    return "\n".join(lines).encode()
