"""PyTorch's default initial weights and batch norm, which the original networks were trained with."""

import math

import keras


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
