"""Keras models back to weight files of PyTorch, and `.keras` files."""

from collections.abc import Mapping
from pathlib import Path

import keras

import rfd_tf.models  # noqa: F401  registers our layers
from rfd_tf.files import atomic_path
from rfd_tf.models import keras_file
from zoo.architectures import architecture_of
from zoo.errors import FormatError
from zoo.http import sha256_of
from zoo.report import Report
from zoo.sources import kind_to_write, read_arrays, write_arrays
from zoo.verification import TOLERANCE, compare, outputs, random_images, verify


def read_keras(path: str | Path) -> keras.Model:
    """The model of a `.keras` file; code inside it is not run (Keras's safe mode).

    Raises:
        FormatError: if the file is missing or cannot be read.
    """
    if not Path(path).is_file():
        raise FormatError(f"{path}: there is no such file")
    try:
        return keras_file.read_keras(Path(path))
    except ValueError as error:
        raise FormatError(str(error)) from error


def write_keras(model: keras.Model, path: str | Path) -> None:
    """Save; the file appears under its name only when it is complete."""
    with atomic_path(path) as temporary:
        model.save(temporary)


def export_weights(
    model: keras.Model,
    out: str | Path,
    *,
    source: str | Path | None = None,
    entry: str | None = None,
    counters: Mapping[str, int] | None = None,
    tolerance: float = TOLERANCE,
) -> Report:
    """Write a network as `.keras`, `.pth` (zip format) or `.caffemodel`, and its report `OUT.json` beside it.

    The file is read back and compared with the network before it appears under its name.

    Args:
        model: an AlexNet or CIFAR ResNet of ours, with or without its heads.
        out: ends in one of those.
        source: the file that the network came from, for the report.
        entry: the zoo entry that it came from, for the report.
        counters: values for PyTorch's `num_batches_tracked`; zero where not given.
        tolerance: how far the file's network may be from `model`: absolute up to values of 1, relative to
            the feature's largest value beyond.

    Raises:
        ZooError: if the network has no such form, or the file is not equal to it; nothing is written then.
    """
    report = write_verified(model, out, source=source, entry=entry, counters=counters, tolerance=tolerance)
    report.write_beside(out)
    return report


def write_verified(
    model: keras.Model, out: str | Path, *, source, entry: str | None, counters, tolerance: float
) -> Report:
    """`export_weights` without writing the report."""
    kind = kind_to_write(out)
    built = architecture_of(model)
    out = Path(out)
    with atomic_path(out) as temporary:
        if kind == "keras":
            model.save(temporary)
            images = random_images(model)
            differences = compare(outputs(read_keras(temporary), images), outputs(model, images), tolerance)
            compared_with = "the network before it was saved"
        else:
            write_arrays(temporary, kind, built.weight_map(kind, model).state(model, counters))
            state = read_arrays(temporary, kind)
            differences, compared_with = verify(model, built.name, kind, state, tolerance=tolerance)
        file = source or temporary
        return Report(
            architecture=built.name,
            source_file=Path(source or out).name,
            source_sha256=sha256_of(file),
            compared_with=compared_with,
            tolerance=tolerance,
            differences=differences,
            entry=entry,
            counters=counters or {},
        )
