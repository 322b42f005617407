"""Pictures to network inputs: decoding, resizing, cropping, flipping, normalising.

Pixels stay in 0..255 until `normalize`. Random functions take a stateless seed (int32 or int64 of shape [2])
and depend on nothing else. All run in graphs and eagerly; sizes are whole pixels.
"""

from collections.abc import Sequence

import tensorflow as tf

from rfd_tf.data import orientation

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

# JPEG transforms: the one that PIL uses, and TensorFlow's default, which trades accuracy for speed.
EXACT, FAST = "INTEGER_ACCURATE", "INTEGER_FAST"


def uniform(shape: Sequence[int], seed: tf.Tensor, minval=0.0, maxval=1.0, dtype=tf.float32) -> tf.Tensor:
    """Stateless uniform numbers in [minval, maxval) by Philox, the same on every device."""
    return tf.random.stateless_uniform(shape, seed, minval, maxval, dtype, alg="philox")


def pick(counts: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    """A whole number in [0, count) for each of `counts` (int32), from numbers in [0, 1); int32."""
    return tf.minimum(tf.cast(uniforms * tf.cast(counts, tf.float32), tf.int32), counts - 1)


def decode(fetched: tf.Tensor, exif_orientation: bool = False) -> tf.Tensor:
    """What a source's `fetch` gave, as uint8 RGB of shape [H, W, 3].

    Decodes JPEG (grey, CMYK and YCCK too), PNG (transparency is dropped, 16 bits are cut to 8), BMP, WebP and
    the first frame of a GIF, by content. Pixels pass through.

    Args:
        fetched: a string scalar or uint8 of shape [H, W, 3].
        exif_orientation: whether an encoded image is turned as its EXIF orientation says.
    """
    if fetched.dtype != tf.string:
        return fetched
    image = tf.cond(
        tf.io.is_jpeg(fetched),
        lambda: tf.io.decode_jpeg(fetched, channels=3, dct_method=EXACT),
        lambda: tf.io.decode_image(fetched, channels=3, expand_animations=False),
    )
    image = tf.ensure_shape(image, [None, None, 3])
    if exif_orientation:
        image = orientation.upright(image, orientation.exif_orientation(fetched))
    return image


def image_size(fetched: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(height, width) of pixels or of an encoded JPEG, whose header is read only; int32 scalars."""
    encoded = fetched.dtype == tf.string
    shape = tf.image.extract_jpeg_shape(fetched) if encoded else tf.shape(fetched)
    return shape[0], shape[1]


def resize(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Bilinear with antialiasing, as PIL's; float32 of shape [height, width, 3] in 0..255."""
    if isinstance(height, int) and isinstance(width, int) and image.shape[:2] == (height, width):
        return tf.cast(image, tf.float32)  # nothing to do, as is known before the graph runs
    return tf.image.resize(image, [height, width], method="bilinear", antialias=True)


def resize_short_side(image: tf.Tensor, size: int) -> tf.Tensor:
    """The short side becomes `size`, the long one in proportion, rounded down as torchvision does."""
    height, width = image_size(image)
    short, long = tf.minimum(height, width), tf.maximum(height, width)
    long_size = size * long // short
    tall = height > width
    return resize(image, tf.where(tall, long_size, size), tf.where(tall, size, long_size))


def center_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """The middle `size` x `size` pixels; an odd margin is split as torchvision does (half to even)."""
    height, width = image_size(image)
    top, left = (tf.cast(tf.round((side - size) / 2), tf.int32) for side in (height, width))
    return tf.image.crop_to_bounding_box(image, top, left, size, size)


def random_crop(image: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """`size` x `size` pixels from anywhere in `image`, every position as likely."""
    top, left = tf.unstack(pick(tf.stack(image_size(image)) - size + 1, uniform([2], seed)))
    return tf.image.crop_to_bounding_box(image, top, left, size, size)


def pad_crop(image: tf.Tensor, size: int, seed: tf.Tensor, padding: int = 4) -> tf.Tensor:
    """A random crop of the picture framed by `padding` black pixels (the CIFAR recipe)."""
    return random_crop(tf.pad(image, [[padding] * 2, [padding] * 2, [0, 0]]), size, seed)


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Left and right exchanged in one of two cases."""
    return tf.cond(uniform([], seed) < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def normalize(image: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """(image / 255 - mean) / std per channel, float32."""
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    image = tf.cast(image, tf.float32)
    if image.shape.rank != 3:
        return (image / 255.0 - mean) / std
    # Of one picture by rows: on a processor, broadcasting over three channels takes three times as long.
    height, width, channels = tf.unstack(tf.shape(image))
    mean, std = tf.tile(mean, [width]), tf.tile(std, [width])
    rows = (tf.reshape(image, [height, width * channels]) / 255.0 - mean) / std
    return tf.ensure_shape(tf.reshape(rows, [height, width, channels]), image.shape)
