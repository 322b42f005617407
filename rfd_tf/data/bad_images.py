"""Finding the pictures that cannot be read or decoded, by name."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from rfd_tf.atomic import atomic_file
from rfd_tf.data.augmentation import decode
from rfd_tf.data.progress import logged
from rfd_tf.data.source import Source, host_constant
from rfd_tf.data.subset import checked_rows
from rfd_tf.json_text import fits, parse_json

LISTED = 20  # bad pictures named in the log


class BadImageError(ValueError):
    """A picture that cannot be read or decoded; the message is `path: reason`."""


def find_bad_images(source: Source, indices: Sequence[int] | None = None) -> dict[int, str]:
    """Reads and decodes pictures, in parallel, and returns the reason for each that fails, by index.

    Args:
        source: the pictures.
        indices: those to try, all by default.
    """
    return dict(_bad_images(source, indices))


def first_bad_image(source: Source, indices: Sequence[int] | None = None) -> BadImageError | None:
    """The error of one bad picture of `indices` (all by default), or None: stops when it has found one.

    TensorFlow's own decoding errors do not say which picture they met. After one, raise this instead:
    `raise first_bad_image(source, training_indices(...)) from error`.
    """
    for index, reason in _bad_images(source, indices):
        return BadImageError(f"{source.describe(index)}: {reason}")
    return None


def valid_indices(
    source: Source, cache_file: str | os.PathLike | None = None
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Tries every picture once; the bad ones are logged, and left out for the whole run.

    Args:
        source: the pictures.
        cache_file: a JSON file that keeps the finding. It is read if it is there and belongs to the same list
            of pictures, and written otherwise. Delete it once a bad picture has been replaced.

    Returns:
        (indices of the usable pictures, int64, ascending; (path, reason) of each of the others).

    Raises:
        BadImageError: if no picture is usable.
    """
    bad = {} if not source.encoded else _cached_bad_images(source, cache_file)
    skipped = [(source.describe(index), reason) for index, reason in bad.items()]
    if len(bad) == len(source):
        raise BadImageError(f"None of the {len(bad)} pictures can be used, as {': '.join(skipped[0])}")
    if skipped:
        logging.warning("%d of %d pictures are unusable and skipped:", len(skipped), len(source))
        for path, reason in skipped[:LISTED]:
            logging.warning("  %s: %s", path, reason)
        if len(skipped) > LISTED:
            logging.warning("  and %d more", len(skipped) - LISTED)
    return np.setdiff1d(np.arange(len(source)), np.fromiter(bad, "int64", len(bad))), skipped


def _bad_images(source: Source, indices: Sequence[int] | None) -> Iterator[tuple[int, str]]:
    """(index, reason), in the order of `indices`. A pipeline drops the bad ones; each is then tried alone."""
    rows = np.arange(len(source)) if indices is None else checked_rows(indices, len(source))

    def size(row: tf.Tensor):
        return row, tf.size(decode(source.fetch(row)))

    dataset = tf.data.Dataset.from_tensor_slices(host_constant(rows))
    dataset = dataset.map(size, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    good = dataset.ignore_errors().prefetch(64).as_numpy_iterator()
    remaining = logged(good, len(rows), f"Checking the pictures of {source.name}")
    next_good, _ = next(remaining, (None, None))
    for row in rows.tolist():
        if row == next_good:
            next_good, _ = next(remaining, (None, None))
        elif reason := _reason(source, row):
            yield row, reason


def _reason(source: Source, row: int) -> str | None:
    """Why picture `row` fails, in one line without TensorFlow's node names; None if it does not fail."""
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
    listing = _listing_hash(source)
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


def _listing_hash(source: Source) -> str:
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(os.fsencode(source.describe(index)) + b"\0")
    return digest.hexdigest()
