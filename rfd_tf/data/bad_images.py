"""Images that cannot be used: found by their headers and by decoding, named, left out or refused."""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import logging

from rfd_tf.data.augmentation import decode
from rfd_tf.data.source import Source, checked_rows, host_constant
from rfd_tf.files import atomic_file, fits, parse_json
from rfd_tf.image_header import MAX_ASPECT, MAX_PIXELS, WEBP_ANIMATION

Item = TypeVar("Item")


def logged(items: Iterable[Item], total: int, what: str, seconds: float = 30.0) -> Iterator[Item]:
    """`items` unchanged, with a log line `what: 1200 of 5000 (40/s)` every `seconds`."""
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= seconds:
            logging.info("%s: %d of %d (%.0f/s)", what, count, total, count / (now - start))
            last = now


DAMAGED = "damaged or cut short"

_HEADER_BYTES = 32
_WEBP_LIMIT = 2**14  # its sides are numbers of 14 bits


def image_problem(encoded: tf.Tensor) -> tf.Tensor:
    """Why a file's bytes are refused, or `""`; a string scalar. Reads the header only; runs in graphs.

    Refused are empty files; what is no JPEG, PNG, BMP or WebP; animated WebP; images of more than
    `MAX_PIXELS`, or with one side more than `MAX_ASPECT` times the other. Damage behind the header shows only
    in decoding.

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


def unusable_image(content: bytes) -> str:
    """Why a file cannot be used, as `image_problem` or as found by decoding it; `""` if it can."""
    encoded = tf.constant(content)
    try:
        if problem := image_problem(encoded).numpy().decode():
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
        """Size of a 4-byte number that is negative in images stored from the top."""
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


LISTED = 20  # bad images named in the log


class BadImageError(ValueError):
    """An image that cannot be read or decoded; the message is `path: reason`."""


def find_bad_images(source: Source, indices: npt.ArrayLike | None = None) -> dict[int, str]:
    """Reads and decodes the images `indices`, in parallel; the reason for each that fails, by index."""
    return dict(_bad_images(source, indices))


def first_bad_image(source: Source, indices: npt.ArrayLike | None = None) -> BadImageError | None:
    """The error of one bad image of `indices` (all by default), or None: stops when it has found one.

    TensorFlow's own decoding errors do not say which image they met. After one, raise this instead:
    `raise first_bad_image(source, training_indices(...)) from error`.
    """
    for index, reason in _bad_images(source, indices):
        return BadImageError(f"{source.describe(index)}: {reason}")
    return None


def valid_indices(
    source: Source, cache_file: str | os.PathLike | None = None
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Tries every image once; the bad ones are logged, and left out for the whole run.

    Args:
        source: the images.
        cache_file: a JSON file that keeps the finding. It is read if it is there and belongs to the same list
            of images, and written otherwise. Delete it once a bad image has been replaced.

    Returns:
        (indices of the usable images, int64, ascending; (path, reason) of each of the others).

    Raises:
        BadImageError: if no image is usable.
    """
    if source.skipped is not None:
        bad = dict(source.skipped)
    else:
        bad = {} if not source.encoded else _cached_bad_images(source, cache_file)
    skipped = [(source.describe(index), reason) for index, reason in bad.items()]
    if len(bad) == len(source):
        raise BadImageError(f"None of the {len(bad)} images can be used, as {': '.join(skipped[0])}")
    if skipped:
        logging.warning("%d of %d images are unusable and skipped:", len(skipped), len(source))
        for path, reason in skipped[:LISTED]:
            logging.warning("  %s: %s", path, reason)
        if len(skipped) > LISTED:
            logging.warning("  and %d more", len(skipped) - LISTED)
    return np.setdiff1d(np.arange(len(source)), np.fromiter(bad, "int64", len(bad))), skipped


def _bad_images(source: Source, indices: npt.ArrayLike | None) -> Iterator[tuple[int, str]]:
    """(index, reason), in the order of `indices`. A pipeline drops the bad ones; each is then tried alone."""
    rows = checked_rows(indices, len(source))

    @tf.autograph.experimental.do_not_convert
    def size(row: tf.Tensor):
        return row, tf.size(decode(source.fetch(row)))

    dataset = tf.data.Dataset.from_tensor_slices(host_constant(rows))
    dataset = dataset.map(size, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    good = dataset.ignore_errors().prefetch(64).as_numpy_iterator()
    remaining = logged(good, len(rows), f"Checking the images of {source.name}")
    next_good, _ = next(remaining, (None, None))
    for row in rows.tolist():
        if row == next_good:
            next_good, _ = next(remaining, (None, None))
        elif reason := _reason(source, row):
            yield row, reason


def _reason(source: Source, row: int) -> str | None:
    """Why image `row` fails, in one line without TensorFlow's node names; None if it does not fail."""
    try:
        decode(source.fetch(tf.constant(row, tf.int64)))
    except Exception as error:  # outside a graph, what a source's Python code raises comes through as it is
        return one_line(error)
    return None


def one_line(error: Exception) -> str:
    """An error of reading or decoding in one line, without TensorFlow's node names."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:\w+\].*", "", getattr(error, "message", str(error)))
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def _cached_bad_images(source: Source, cache_file: str | os.PathLike | None) -> dict[int, str]:
    if cache_file is None:
        return find_bad_images(source)
    listing = Source.fingerprint(source, np.arange(len(source)))  # of the names alone
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # absent or damaged
        cached = parse_json(Path(cache_file).read_text(encoding="utf-8"))
        bad = {index: reason for index, _, reason in cached["bad"]} if fits(cached, dict) else {}
        known = fits(list(bad), list[int]) and all(0 <= index < len(source) for index in bad)
        if known and cached["listing"] == listing:
            return bad
    bad = find_bad_images(source)
    rows = [[index, source.describe(index), reason] for index, reason in bad.items()]
    with atomic_file(cache_file) as file:
        file.write(json.dumps({"listing": listing, "images": len(source), "bad": rows}, indent=1).encode())
    return bad
