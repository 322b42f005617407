"""EXIF's orientation of encoded images, in operations of TensorFlow; the rule is `rfd_tf.image_header`'s."""

import numpy as np
import tensorflow as tf

from rfd_tf import image_header
from rfd_tf.image_header import (
    EXIF,
    FLIPS_COLUMNS,
    FLIPS_ROWS,
    MAX_EXIF_BYTES,
    MAX_SEGMENTS,
    ORIENTATION_TAG,
    PNG,
    TRANSPOSES,
)

_ENTRY = 12  # bytes of an entry of a TIFF directory
_SHORT, _LONG = 3, 4  # types of entries
_PLAIN = b"\xff\xd8\xff\xe0\0\x10" + bytes(14) + b"\xff\xdb"
_ANY = [6 <= place < 20 for place in range(22)]  # bytes of it that are JFIF's version and density


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """As `image_header.exif_orientation`, of a string scalar: 1 to 8, int32. Runs in graphs."""
    # Told by few operations, which cost a tenth of walking the segments.
    return tf.cond(is_plain_jpeg(encoded), lambda: tf.constant(1), lambda: _searched(encoded))


def exif_orientation_here(encoded: tf.Tensor) -> tf.Tensor:
    """The same in few operations, for a pipeline of this process: Python reads what is not plain."""

    def search(file: bytes | np.ndarray) -> np.ndarray:  # an array where no graph is built
        return np.asarray(image_header.exif_orientation(np.asarray(file, object).item()), "int32")

    def searched() -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(search, [encoded], tf.int32, stateful=False), [])

    return tf.cond(is_plain_jpeg(encoded), lambda: tf.constant(1), searched)


def is_plain_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Whether a file begins as most JPEGs without EXIF do, a bool scalar: a header of JFIF, then tables."""
    head = tf.strings.substr(encoded, 0, len(_PLAIN))
    head = tf.io.decode_raw(head, tf.uint8, fixed_length=len(_PLAIN))
    return tf.reduce_all((head == list(_PLAIN)) | _ANY)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Stored pixels [H, W, C] as they are to be shown, for an orientation of 1 to 8 (int32 scalar)."""

    def turned() -> tf.Tensor:
        transposed, rows, columns = _turns(orientation)
        straight = tf.cond(transposed, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        return tf.raw_ops.Reverse(tensor=straight, dims=tf.stack([rows, columns, False]))

    height, width, channels = image.shape
    shape = [height, width, channels] if height == width else [None, None, channels]
    return tf.ensure_shape(tf.cond(orientation == 1, lambda: image, turned), shape)


def shown_size(height: tf.Tensor, width: tf.Tensor, orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(height, width) as shown, of an image that is stored as `height` x `width`."""
    transposed, _, _ = _turns(orientation)
    return tf.where(transposed, width, height), tf.where(transposed, height, width)


def stored_window(
    window: tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor],
    height: tf.Tensor,
    width: tf.Tensor,
    orientation: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """(top, left, height, width) in the stored image, of a window in the shown one of `height` x `width`."""
    transposed, rows, columns = _turns(orientation)
    top, left, window_height, window_width = window
    top = tf.where(rows, height - top - window_height, top)
    left = tf.where(columns, width - left - window_width, left)
    return (
        tf.where(transposed, left, top),
        tf.where(transposed, top, left),
        tf.where(transposed, window_width, window_height),
        tf.where(transposed, window_height, window_width),
    )


def _turns(orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Whether rows and columns are exchanged, then rows reversed, then columns: bool scalars."""
    table = [[o in turned for turned in (TRANSPOSES, FLIPS_ROWS, FLIPS_COLUMNS)] for o in range(9)]
    return tuple(tf.unstack(tf.gather(table, orientation)))


# Called, not inlined: in a branch that is not taken TensorFlow still passes over every inlined operation.
@tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([], tf.string)],
    experimental_attributes={"_noinline": True},
)
def _searched(encoded: tf.Tensor) -> tf.Tensor:
    head = _bytes(encoded, 0, 12)
    is_png = _equal(head[:8], PNG)
    is_webp = _equal(head[:4], b"RIFF") & _equal(head[8:12], b"WEBP")
    start, length = tf.cond(
        _equal(head[:2], b"\xff\xd8"),
        lambda: _exif_of_jpeg(encoded),
        lambda: tf.cond(is_png | is_webp, lambda: _exif_of_chunks(encoded, is_png), lambda: (0, 0)),
    )
    return tf.cond(length > 0, lambda: _orientation(_part(encoded, start, length)), lambda: tf.constant(1))


def _exif_of_jpeg(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(start, length) of the TIFF data; length 0 where there is none."""

    def step(position, _start, _length):
        head = _bytes(encoded, position, 10)
        marker, size = head[1], 256 * head[2] + head[3]
        metadata = (head[0] == 0xFF) & ((marker & 0xF0 == 0xE0) | (marker == 0xFE)) & (size >= 2)
        found = metadata & (marker == 0xE1) & _equal(head[4:], EXIF)
        following = tf.where(metadata & ~found, position + 2 + size, -1)
        # A 0xFF before a marker fills up.
        following = tf.where((head[0] == 0xFF) & (marker == 0xFF), position + 1, following)
        return following, tf.where(found, position + 10, 0), tf.where(found, size - 8, 0)

    return _walked(step, 2, encoded)


def _exif_of_chunks(encoded: tf.Tensor, is_png: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `_exif_of_jpeg`, of a PNG or WebP."""
    kind = tf.where(is_png, list(b"eXIf"), list(b"EXIF"))
    last = tf.constant(list(b"IEND"))

    def step(position, _start, _length):
        head = _bytes(encoded, position, 14)
        name = tf.where(is_png, head[4:8], head[:4])
        size = tf.where(is_png, _number(head[:4]), _number(head[7:3:-1]))
        found = tf.reduce_all(name == kind)
        end = tf.reduce_all(name == last) | (size < 0)
        size = tf.minimum(tf.maximum(size, 0), tf.strings.length(encoded))
        following = position + tf.where(is_png, 12 + size, 8 + size + size % 2)
        prefix = tf.where(_equal(head[8:], EXIF) & ~is_png & (size >= 6), 6, 0)
        return (
            tf.where(found | end, -1, following),
            tf.where(found, position + 8 + prefix, 0),
            tf.where(found, size - prefix, 0),
        )

    return _walked(step, tf.where(is_png, 8, 12), encoded)


def _walked(step, position, encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(start, length) that `step` found, called until its position is negative or beyond the file."""
    end = tf.strings.length(encoded)
    _, start, length = tf.while_loop(
        lambda position, _start, _length: (position >= 0) & (position < end),
        step,
        (tf.convert_to_tensor(position), tf.constant(0), tf.constant(0)),
        maximum_iterations=MAX_SEGMENTS,
    )
    return start, length


def _orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Of TIFF data, a string scalar."""
    head = _bytes(tiff, 0, 8)
    little = _equal(head[:4], b"II*\0")
    known = little | _equal(head[:4], b"MM\0*")

    def number(digits):
        """Of bytes [..., n] in the order of the file."""
        return _number(tf.where(little, tf.reverse(digits, [-1]), digits))

    directory = number(head[4:])
    # What does not fit 31 bits is negative, and beyond any file.
    directory = tf.where(directory < 0, MAX_EXIF_BYTES, directory)
    count = number(_bytes(tiff, directory, 2))
    entries = _part(tiff, directory + 2, _ENTRY * count)
    whole = tf.strings.length(entries) // _ENTRY * _ENTRY
    rows = tf.io.decode_raw(tf.strings.substr(entries, 0, whole), tf.uint8)
    rows = tf.reshape(tf.cast(rows, tf.int32), [-1, _ENTRY])
    # A row for the case that there is none.
    rows = tf.concat([rows, tf.zeros([1, _ENTRY], tf.int32)], 0)
    row = rows[tf.argmax(number(rows[:, :2]) == ORIENTATION_TAG)]
    kind, values = number(row[2:4]), number(row[4:8])
    value = tf.where(kind == _LONG, number(row[8:]), number(row[8:10]))
    good = known & (number(row[:2]) == ORIENTATION_TAG) & (values == 1)
    good &= ((kind == _SHORT) | (kind == _LONG)) & (value >= 1) & (value <= 8)
    return tf.where(good, value, 1)


def _number(digits: tf.Tensor) -> tf.Tensor:
    """The int32 numbers of 2 or 4 bytes [..., n], the first of them the highest; they may overflow."""
    powers = tf.bitwise.left_shift(1, 8 * tf.range(digits.shape[-1] - 1, -1, -1))
    return tf.reduce_sum(digits * powers, -1)


def _part(text: tf.Tensor, start, length) -> tf.Tensor:
    """The bytes that there are from `start` on, `length` or `MAX_EXIF_BYTES` of them at most."""
    start = tf.minimum(start, tf.strings.length(text))
    return tf.strings.substr(text, start, tf.minimum(length, MAX_EXIF_BYTES))


def _bytes(text: tf.Tensor, start, count: int) -> tf.Tensor:
    """int32 [count]; zeros where there are no bytes."""
    found = tf.io.decode_raw(_part(text, start, count), tf.uint8, fixed_length=count)
    return tf.cast(tf.ensure_shape(found, [count]), tf.int32)


def _equal(digits: tf.Tensor, expected: bytes) -> tf.Tensor:
    return tf.reduce_all(digits == list(expected))
