"""Images to network inputs: decoding, resizing, cropping, flipping, normalising.

Pixels are uint8 until `normalize`: resizing rounds to whole grey levels, as PIL does. Random functions take a
stateless seed (int32 or int64 of shape [2]) and depend on nothing else. All run in graphs and eagerly; sizes
are whole pixels.
"""

import math
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


def resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Bilinear with antialiasing, as PIL's; uint8 [H, W, 3] to uint8 [height, width, 3]."""
    if isinstance(height, int) and isinstance(width, int) and image.shape[:2] == (height, width):
        return image  # nothing to do, as is known before the graph runs
    own_height, own_width = image_size(image)
    resized = tf.cond(
        (own_height <= height) & (own_width <= width),
        lambda: resize_plainly(image, height, width),  # where nothing shrinks, antialiasing changes nothing
        lambda: _resize_antialiased(image, height, width),
    )
    sides = [side if isinstance(side, int) else None for side in (height, width)]
    return tf.ensure_shape(resized, [*sides, 3])


def resize_plainly(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Bilinear without antialiasing; uint8 [H, W, 3] to uint8 [height, width, 3]."""
    size = tf.stack([height, width])
    resized = tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=size, half_pixel_centers=True)
    return rounded(resized[0])


def _resize_antialiased(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """`tf.image.resize` with antialiasing, rounded, in less than half its time.

    TensorFlow's operation is slow along a row, where it works on three numbers at a time. So it is given
    columns only, whose elements are whole rows: those of the image, then those of what that gave, transposed.
    """
    own_height, own_width = image_size(image)
    rows = tf.reshape(tf.cast(image, tf.float32), tf.stack([own_height, own_width * 3]))
    rows = _resize_columns(rows, own_height, height)
    columns = tf.transpose(tf.reshape(rows, tf.stack([height, own_width, 3])), [1, 0, 2])
    columns = tf.reshape(columns, tf.stack([own_width, height * 3]))
    columns = rounded(_resize_columns(columns, own_width, width))
    return tf.transpose(tf.reshape(columns, tf.stack([width, height, 3])), [1, 0, 2])


def _resize_columns(rows: tf.Tensor, own_height: tf.Tensor, height: int | tf.Tensor) -> tf.Tensor:
    """float32 [own_height, M] to [height, M]."""
    resized = tf.raw_ops.ScaleAndTranslate(
        images=rows[tf.newaxis, :, tf.newaxis],
        size=tf.stack([height, 1]),
        scale=tf.stack([tf.cast(height, tf.float32) / tf.cast(own_height, tf.float32), 1.0]),
        translation=[0.0, 0.0],
        kernel_type="triangle",
        antialias=True,
    )
    return resized[0, :, 0]


def rounded(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels in 0..255 as uint8, a half upwards, as PIL does."""
    return tf.cast(pixels + 0.5, tf.uint8)


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
    """A random crop of the image framed by `padding` black pixels (the CIFAR recipe)."""
    return random_crop(tf.pad(image, [[padding] * 2, [padding] * 2, [0, 0]]), size, seed)


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Left and right exchanged in one of two cases."""
    return tf.cond(uniform([], seed) < 0.5, lambda: tf.reverse(image, [1]), lambda: image)


def normalize(image: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """(image / 255 - mean) / std per channel, float32 [..., H, W, 3]."""
    mean, std = tf.constant(mean, tf.float32), tf.constant(std, tf.float32)
    # By rows: on a processor, broadcasting over three channels takes three times as long.
    width, channels = tf.unstack(tf.shape(image)[-2:])
    rows = tf.cast(tf.reshape(image, tf.stack([-1, width * channels])), tf.float32)
    rows = (rows / 255.0 - tf.tile(mean, [width])) / tf.tile(std, [width])
    return tf.ensure_shape(tf.reshape(rows, tf.shape(image)), image.shape)


TRIES = 10
ASPECT = (3 / 4, 4 / 3)
REDUCTIONS = (2, 4, 8)  # of an image's sides, that the JPEG decoder can make as it decodes


def random_resized_crop(
    fetched: tf.Tensor,
    size: int,
    seed: tf.Tensor,
    min_area: float = 0.08,
    max_area: float = 1.0,
    fast: bool = False,
    exif_orientation: bool = False,
) -> tf.Tensor:
    """A window of random area, aspect and position, resized to `size` x `size`.

    Args:
        fetched: an encoded image (string scalar) or pixels, uint8 of shape [H, W, 3].
        size: side of the result in pixels.
        seed: stateless seed, shape [2].
        min_area: least share of the image's area.
        max_area: largest share.
        fast: of a JPEG take `decode_window_fast`, and resize that by `resize_plainly`.
        exif_orientation: whether an encoded image is turned as its EXIF orientation says. The window is drawn
            in the image as it is shown; of a JPEG the same part of the stored pixels is decoded, and turned.

    Returns:
        uint8 of shape [size, size, 3].
    """
    if fetched.dtype != tf.string:
        window = tf.stack(crop_window(*image_size(fetched), seed, min_area, max_area))
        return resize(tf.slice(fetched, *_corner_and_size(window)), size, size)

    def decode_other() -> tf.Tensor:
        image = tf.io.decode_image(fetched, channels=3, expand_animations=False)
        if exif_orientation:
            image = orientation.upright(image, orientation.exif_orientation_here(fetched))
        return image

    # Few operations in few branches: TensorFlow passes over each of them, also where a branch is not taken.
    is_jpeg = tf.io.is_jpeg(fetched)
    no_pixels = tf.zeros([0, 0, 3], tf.uint8)
    pixels = tf.cond(is_jpeg, lambda: no_pixels, decode_other)
    height, width = tf.unstack(
        tf.cond(is_jpeg, lambda: tf.stack(image_size(fetched)), lambda: tf.shape(pixels)[:2])
    )
    turned = tf.constant(1)
    if exif_orientation:
        turned = tf.cond(is_jpeg, lambda: orientation.exif_orientation_here(fetched), lambda: turned)
        height, width = orientation.shown_size(height, width, turned)
    window = crop_window(height, width, seed, min_area, max_area)
    if exif_orientation:
        window = orientation.stored_window(window, height, width, turned)
    cut = tf.cond(
        is_jpeg,
        lambda: decode_window_fast(fetched, *window, size) if fast else decode_window(fetched, *window),
        lambda: tf.slice(pixels, *_corner_and_size(tf.stack(window))),
    )
    if fast:
        cropped = tf.cond(is_jpeg, lambda: resize_plainly(cut, size, size), lambda: resize(cut, size, size))
    else:
        cropped = resize(cut, size, size)
    # Turned last, when it is small; resizing does not tell one direction from another.
    cropped = orientation.upright(cropped, turned) if exif_orientation else cropped
    return tf.ensure_shape(cropped, [size, size, 3])


def crop_window(
    height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor, min_area: float = 0.08, max_area: float = 1.0
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """(top, left, height, width) of a window in a `height` x `width` image, int32 scalars.

    Area uniform in [min_area, max_area] of the image's, aspect (width / height) log-uniform in [3/4, 4/3],
    position uniform. Of ten draws the first that fits counts; if none fits, the largest centred window
    whose aspect is in that range.
    """
    drawn, full = uniform([2 * TRIES + 2], seed), tf.stack([height, width])
    sides = tf.cast(full, tf.float32)
    area = sides[0] * sides[1] * (min_area + (max_area - min_area) * drawn[:TRIES])
    aspect = ASPECT[0] * tf.exp(math.log(ASPECT[1] / ASPECT[0]) * drawn[TRIES:-2])
    tried = tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect], 1)))  # [TRIES, 2], heights and widths
    fits = tf.reduce_all((tried >= 1) & (tried <= sides), 1)
    found = tf.reduce_any(fits)
    fallback = tf.minimum(sides, tf.round(tf.reverse(sides, [0]) * ASPECT[1]))
    size = tf.cast(tf.where(found, tf.gather(tried, tf.argmax(fits)), fallback), tf.int32)
    rooms = full - size
    corner = tf.where(found, pick(rooms + 1, drawn[-2:]), rooms // 2)
    return tuple(tf.unstack(tf.concat([corner, size], 0)))  # type: ignore[return-value]


def decode_window(
    jpeg: tf.Tensor, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """The window's pixels, equal to those of the whole image decoded and cropped; uint8 [H, W, 3].

    A frame of one pixel is decoded around it and cut off: colour is stored at half resolution, and at the
    edge of what it decodes `decode_and_crop_jpeg` interpolates colour otherwise (by up to 46 grey levels).
    """
    begin, size = tf.stack([top, left]), tf.stack([height, width])
    framed = tf.maximum(begin - 1, 0)
    end = tf.minimum(begin + size + 1, tf.stack(image_size(jpeg)))
    pixels = tf.image.decode_and_crop_jpeg(
        jpeg, tf.concat([framed, end - framed], 0), channels=3, dct_method=EXACT
    )
    return tf.slice(pixels, *_corner_and_size(tf.concat([begin - framed, size], 0)))


def _corner_and_size(window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(top, left, height, width), int32 [4], as the arguments of `tf.slice`."""
    return tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [3]], 0)


def decode_window_fast(
    jpeg: tf.Tensor, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor, width: tf.Tensor, size: int
) -> tf.Tensor:
    """The window's pixels, nearly, at a reduced scale where it is large; uint8 of shape [h, w, 3].

    The sides are a half, a quarter or an eighth of the window's, as long as both remain at least `size`; the
    decoder averages as it decodes, and the window begins and ends at the nearest whole pixel outwards. The
    inverse DCT is the quicker one, and colour is repeated instead of interpolated.
    """
    quick = {"channels": 3, "fancy_upscaling": False, "dct_method": FAST}

    def whole_scale() -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(jpeg, tf.stack([top, left, height, width]), **quick)

    def reduced(ratio: int) -> tf.Tensor:
        pixels = tf.io.decode_jpeg(jpeg, ratio=ratio, **quick)
        return pixels[top // ratio : -(-(top + height) // ratio), left // ratio : -(-(left + width) // ratio)]

    excess = tf.minimum(height, width) // size
    choice = tf.reduce_sum(tf.cast(excess >= tf.constant(REDUCTIONS), tf.int32))
    branches = [whole_scale, *(lambda ratio=ratio: reduced(ratio) for ratio in REDUCTIONS)]
    return tf.switch_case(choice, branches)
