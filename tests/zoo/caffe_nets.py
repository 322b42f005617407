"""Keras forms of the two Caffe examples, with their weight maps."""

import keras
from keras import layers

from zoo.transforms import CONVOLUTION, DENSE, dense_after_flatten
from zoo.weight_map import Rule, WeightMap


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
