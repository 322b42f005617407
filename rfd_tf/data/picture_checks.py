"""Encoded pictures that must not be decoded, told by their headers."""

import tensorflow as tf

from rfd_tf.data.augmentation import decode
from rfd_tf.image_header import MAX_ASPECT, MAX_PIXELS, WEBP_ANIMATION

DAMAGED = "damaged or cut short"

_HEADER_BYTES = 32
_WEBP_LIMIT = 2**14  # its sides are numbers of 14 bits


def picture_problem(encoded: tf.Tensor) -> tf.Tensor:
    """Why a file's bytes are refused, or `""`; a string scalar. Reads the header only; runs in graphs.

    Refused are empty files; what is no JPEG, PNG, BMP or WebP; animated WebP; pictures of more than
    `MAX_PIXELS`, or with one side more than `MAX_ASPECT` times the other. Damage behind the header shows only
    in decoding.

    Args:
        encoded: string scalar.

    Raises:
        tf.errors.InvalidArgumentError: on a JPEG whose header is damaged.
    """
    header = _Header(encoded)
    is_jpeg = tf.io.is_jpeg(encoded)
    is_png, is_bmp = header.has(0, b"\x89PNG\r\n\x1a\n"), header.has(0, b"BM")
    is_webp = header.has(0, b"RIFF") & header.has(8, b"WEBP")
    sizes = [
        (is_jpeg, lambda: tf.cast(tf.image.extract_jpeg_shape(encoded), tf.int64)),
        (is_png, lambda: _shape(header.big_endian(20), header.big_endian(16))),
        (is_bmp, lambda: _shape(header.signed(22), header.signed(18))),
        (is_webp, lambda: _webp_shape(header)),
    ]
    height, width, _ = tf.unstack(tf.case(sizes, default=lambda: _shape(1, 1)))
    long, short = tf.maximum(height, width), tf.minimum(height, width)
    size = tf.strings.join([tf.strings.as_string(width), " x ", tf.strings.as_string(height), " pixels"])
    refusals = [
        (tf.strings.length(encoded) == 0, "an empty file"),
        (~(is_jpeg | is_png | is_bmp | is_webp), "neither JPEG, PNG, BMP nor WebP"),
        (is_webp & header.has(12, b"VP8X") & header.flag(20, WEBP_ANIMATION), "an animated WebP"),
        (short < 1, DAMAGED),
        (height * width > MAX_PIXELS, tf.strings.join([size, f", more than {MAX_PIXELS} in all"])),
        (long > MAX_ASPECT * short, tf.strings.join([size, ", too long and narrow"])),
    ]
    problem = tf.constant("")
    for applies, reason in reversed(refusals):
        problem = tf.where(applies, reason, problem)
    return problem


def unusable_picture(content: bytes) -> str:
    """Why a file cannot be used, as `picture_problem` or as found by decoding it; `""` if it can."""
    encoded = tf.constant(content)
    try:
        if problem := picture_problem(encoded).numpy().decode():
            return problem
        decode(encoded)
    except tf.errors.InvalidArgumentError:
        return DAMAGED
    return ""


class _Header:
    """The first bytes of a file, zeros where there are none; numbers are int64 scalars."""

    def __init__(self, encoded: tf.Tensor):
        head = tf.strings.substr(encoded, 0, _HEADER_BYTES)
        self._bytes = tf.cast(tf.io.decode_raw(head, tf.uint8, fixed_length=_HEADER_BYTES), tf.int64)

    def has(self, position: int, magic: bytes) -> tf.Tensor:
        return tf.reduce_all(self._bytes[position : position + len(magic)] == list(magic))

    def flag(self, position: int, bit: int) -> tf.Tensor:
        return self._bytes[position] // bit % 2 == 1

    def little_endian(self, position: int, count: int) -> tf.Tensor:
        return sum(self._bytes[position + i] * 256**i for i in range(count))

    def big_endian(self, position: int) -> tf.Tensor:
        return sum(self._bytes[position + i] * 256 ** (3 - i) for i in range(4))

    def signed(self, position: int) -> tf.Tensor:
        """Size of a 4-byte number that is negative in pictures stored from the top."""
        value = self.little_endian(position, 4)
        return tf.minimum(value, 2**32 - value)


def _webp_shape(header: _Header) -> tf.Tensor:
    def extended():
        return _shape(header.little_endian(27, 3) + 1, header.little_endian(24, 3) + 1)

    def lossless():
        bits = header.little_endian(21, 4)
        return _shape(bits // _WEBP_LIMIT % _WEBP_LIMIT + 1, bits % _WEBP_LIMIT + 1)

    def lossy():
        return _shape(header.little_endian(28, 2) % _WEBP_LIMIT, header.little_endian(26, 2) % _WEBP_LIMIT)

    return tf.case([(header.has(12, b"VP8X"), extended), (header.has(12, b"VP8L"), lossless)], default=lossy)


def _shape(height, width) -> tf.Tensor:
    """[height, width, 3], int64."""
    return tf.stack([tf.cast(height, tf.int64), tf.cast(width, tf.int64), tf.constant(3, tf.int64)])
