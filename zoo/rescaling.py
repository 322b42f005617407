"""Rescaling a network's layers by the data (magic init)."""

from pathlib import Path

import keras
import numpy as np
from PIL import Image

from rfd_tf.image_header import check_encoded, exif_orientation, upright
from rfd_tf.keras_internals import consumers
from rfd_tf.precision import computing_in_float32
from zoo.errors import ZooError
from zoo.registry import InputFormat

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp"}


def calibration_images(source: str | Path, size: tuple[int, int], count: int) -> np.ndarray:
    """Up to `count` images, resized and normalised as the zoo's networks expect, float32 [N, H, W, 3].

    Args:
        source: a folder, searched with its sub-folders in sorted order, or a `.npy`: uint8 RGB [N, H, W, 3].
        size: (height, width).
        count: how many, evenly spread over what is there.

    Raises:
        ZooError: if there are none, or one cannot be read.
    """
    source = Path(source)
    if source.suffix == ".npy":
        images = _from_array(source, count)
    elif source.is_dir():
        files = sorted(file for file in source.rglob("*") if file.suffix.lower() in _ENDINGS)
        images = [_open(file) for file in _spread(files, count)]
    else:
        raise ZooError(f"{source}: neither a folder of images nor a .npy file")
    if not images:
        raise ZooError(f"{source}: has no images ({', '.join(sorted(_ENDINGS))})")
    height, width = size
    resized = [np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)) for image in images]
    return InputFormat(input_size=(height, width))(np.stack(resized))


def _spread(items, count: int) -> list:
    positions = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    return [items[position] for position in positions] if len(items) else []


def _from_array(path: Path, count: int) -> list[Image.Image]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # an array of plain numbers, as long as it says
    except Exception as error:  # NumPy's reader of headers raises whatever the bytes lead it to
        raise ZooError(f"{path}: is not a .npy file that can be read ({error})") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise ZooError(f"{path}: must be uint8 [N, H, W, 3]. Received: {array.dtype} {array.shape}")
    return [Image.fromarray(image) for image in _spread(array, count)]


def _open(path: Path) -> Image.Image:
    reason = check_encoded(path)
    try:
        if not reason:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            return Image.fromarray(np.ascontiguousarray(upright(pixels, exif_orientation(path))))
    except Exception as error:  # PIL's decoders raise whatever damaged bytes lead to
        reason = str(error)
    raise ZooError(f"{path}: cannot be read as an image ({reason})")


_SCALABLE = (keras.layers.Conv2D, keras.layers.Dense)
# Layers that turn c * x into c * y for every c > 0.
_HOMOGENEOUS = (
    keras.layers.InputLayer,
    keras.layers.ZeroPadding2D,
    keras.layers.ReLU,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Flatten,
    keras.layers.Dropout,
    keras.layers.Identity,
)
_STEPS = 10
_LOG_RATIO = 0.01


def rescale(backbone: keras.Model, images: np.ndarray, *, seed: int = 0) -> keras.Model:
    """The same network with its layers' weights rescaled so that all learn at the same relative rate.

    For a random unit-normal gradient at the last layer, each layer's ratio is
    `sqrt(mean(gradient**2) / mean(weight**2))`. Every kernel is multiplied by the root of its ratio over the
    target (the geometric mean of the ratios times the output's deviation to the power 1 / layers), its bias
    by that and by what the layers before have changed; up to 10 times, each with a new gradient, until the
    logarithm of every ratio is within 1 % of the target's. The output is the network's last, after any ReLU,
    and its deviation the mean over the channels of each channel's. The function stays the same up to a
    constant positive factor per feature.

    Args:
        backbone: a chain of convolutions and dense layers with ReLUs, without batch norm: fold it first.
            It stays as it is.
        images: [B, H, W, 3], prepared as the network expects them. No labels are needed.
        seed: of the random gradient.

    Raises:
        ZooError: if the network is not such a chain, the images do not fit, or a layer is dead.

    Reference: Krähenbühl et al., Data-dependent Initializations of Convolutional Neural Networks, ICLR 2016.
    """
    layers = _chain(backbone)
    images = np.asarray(images, "float32")
    if images.ndim != 4 or not len(images) or not np.isfinite(images).all():
        raise ZooError(f"`images` must be a finite batch [B, H, W, C]. Received: shape {images.shape}")
    rescaled = keras.models.clone_model(backbone)
    rescaled.set_weights(backbone.get_weights())
    copies = [rescaled.get_layer(layer.name) for layer in layers]
    trunk = keras.Model(rescaled.inputs[0], rescaled.layers[-1].output)
    rng = np.random.default_rng(seed)
    for _ in range(_STEPS):
        noise = rng.standard_normal((len(images), *trunk.output.shape[1:])).astype("float32")
        with computing_in_float32(trunk):
            ratios, deviation = _ratios(trunk, copies, images, noise)
        log_target = np.mean(np.log(ratios)) + np.log(deviation) / len(copies)
        if np.all(np.abs(np.log(ratios) - log_target) < _LOG_RATIO * abs(log_target)):
            break
        target = np.exp(log_target)
        _scale(copies, np.sqrt(ratios / target))
    return rescaled


def _chain(backbone: keras.Model) -> list[keras.layers.Layer]:
    """The layers with weights, in order, of a network that is one chain."""
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            raise ZooError(f"The network has the batch norm {layer.name!r}: call zoo.fold_batch_norm first")
        linear = getattr(layer, "activation", None) in (
            None,
            keras.activations.linear,
            keras.activations.relu,
        )
        if not isinstance(layer, _SCALABLE + _HOMOGENEOUS) or not linear:
            raise ZooError(
                f"The layer {layer.name!r} ({type(layer).__name__}) does not keep a factor: cannot rescale"
            )
        if sum(user in backbone.layers for user in consumers(layer)) > 1:
            raise ZooError(f"The layer {layer.name!r} feeds several layers: only a chain can be rescaled")
    layers = [layer for layer in backbone.layers if isinstance(layer, _SCALABLE)]
    if not layers:
        raise ZooError(f"The network {backbone.name!r} has no layer to rescale")
    return layers


def _ratios(trunk, layers, images, noise) -> tuple[np.ndarray, float]:
    """The layers' ratios, and the mean over the output's channels of their standard deviations."""
    import tensorflow as tf

    kernels = [layer.kernel.value for layer in layers]
    with tf.GradientTape() as tape:
        output = trunk(images, training=False)
        loss = tf.reduce_sum(output * noise)
    gradients = tape.gradient(loss, kernels)
    squares = [
        (float(tf.reduce_mean(gradient**2)), float(tf.reduce_mean(kernel**2)))
        for gradient, kernel in zip(gradients, kernels, strict=True)
    ]
    for layer, (gradient, kernel) in zip(layers, squares, strict=True):
        if not (0 < gradient < np.inf and 0 < kernel < np.inf):
            raise ZooError(
                f"The layer {layer.name!r} is dead on these images: "
                f"mean squared gradient {gradient:g}, weight {kernel:g}"
            )
    deviation = float(np.std(output.numpy(), axis=tuple(range(output.shape.rank - 1))).mean())
    if not 0 < deviation < np.inf:
        raise ZooError(f"The network's output has standard deviation {deviation:g} on these images")
    return np.sqrt([gradient / kernel for gradient, kernel in squares]), deviation


def _scale(layers, factors: np.ndarray) -> None:
    for layer, factor, total in zip(layers, factors, np.cumprod(factors), strict=True):
        layer.kernel.assign(layer.kernel * np.float32(factor))
        if layer.use_bias:
            layer.bias.assign(layer.bias * np.float32(total))
