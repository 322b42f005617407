"""From a source file to a Keras network, and to other files; verified before anything is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

from zoo.architectures import architecture, architecture_of, has_heads
from zoo.entry import Entry
from zoo.errors import FormatError, ZooError
from zoo.exporting import export_weights
from zoo.hashing import sha256_of
from zoo.keras_file import read_keras, write_keras
from zoo.registry import info
from zoo.report import Report, recorded_counters
from zoo.sources import KIND_NAMES, kind_of_file, kind_to_write, read_arrays
from zoo.verification import TOLERANCE, verify


def convert(
    name: str,
    from_file: str | Path,
    out: str | Path,
    *,
    heads: bool = False,
    fold: bool = False,
    tolerance: float = TOLERANCE,
) -> Report:
    """Convert an entry's file, and write the result with its report `OUT.json` beside it.

    Args:
        name: of the entry, which says what network the file holds.
        from_file: the released file, or the same network in any other file that can be read: PyTorch, Caffe,
            or a `.keras` file of an earlier conversion. Its content tells, else its ending.
        out: ends in `.keras`, `.pth` (needs PyTorch) or `.caffemodel`.
        heads: whether to convert the heads of the checkpoint as well.
        fold: whether to fold the batch norms into the layers before them.
        tolerance: how far the network may be from an independent forward pass of its source: absolute up to
            values of 1, relative to the feature's largest value beyond.

    Raises:
        ZooError: if there is no such entry, the file is not what it says, or the result is not equal; nothing
            is written then.
    """
    out_kind = kind_to_write(out)
    entry = info(name)
    if entry.architecture and kind_of_file(from_file, entry.source) == "keras":
        model, report = _read_converted(entry, from_file), None
        counters = recorded_counters(from_file)
        if heads and not has_heads(model):
            raise ZooError(f"{from_file}: was converted without its heads; convert the checkpoint itself")
    else:
        model, report = load_file(entry, from_file, heads=heads, tolerance=tolerance)
        counters = report.counters
    if fold:
        from zoo.folding import fold_batch_norm

        model = fold_batch_norm(model)
    if report is None or fold or out_kind != "keras":
        counters = {} if fold else counters
        return export_weights(
            model, out, source=from_file, entry=name, counters=counters, tolerance=tolerance
        )
    write_keras(model, out)
    report.write_beside(out)
    return report


def load_file(
    entry: Entry, path: str | Path, *, heads: bool = False, tolerance: float = TOLERANCE
) -> tuple[keras.Model, Report]:
    """The network of an entry from its file, and the report of its verification.

    Raises:
        ZooError: as `convert`.
    """
    if entry.architecture is None:
        raise ZooError(f"{entry.name} is data and no network: zoo.download({entry.name!r}) gives its path")
    with _source_of(entry, path) as source:
        state = read_arrays(path, source)
        built = architecture(entry.architecture)
        model = built.model(dict(entry.options), heads)
        weight_map = built.weight_map(source, model)
        weight_map.load(state, model)
        differences, compared_with = verify(model, built.name, source, state, tolerance=tolerance)
    left_out = tuple(key for key in weight_map.left_out if key in state)
    counters = weight_map.counts(state)
    return model, _report(entry, path, compared_with, tolerance, differences, left_out, counters)


def verify_file(
    entry: Entry, path: str | Path, model_path: str | Path, tolerance: float = TOLERANCE
) -> Report:
    """Compare a converted `.keras` file with its source again.

    Raises:
        ZooError: if either file cannot be read, or they differ.
    """
    model = _read_converted(entry, model_path)
    with _source_of(entry, path) as source:
        state = read_arrays(path, source)
        differences, compared_with = verify(model, entry.architecture, source, state, tolerance=tolerance)
    return _report(entry, path, compared_with, tolerance, differences)


@contextmanager
def _source_of(entry: Entry, path: str | Path) -> Iterator[str]:
    """What arrays the file has: `torch` or `caffe`. Errors within say so where the entry's are others."""
    source = kind_of_file(path, entry.source)
    expected = f"{entry.name} is released as {KIND_NAMES[entry.source]}"
    if source == "keras":
        raise FormatError(f"{path}: is {KIND_NAMES[source]} and holds no source to verify; {expected}")
    try:
        yield source
    except ZooError as error:
        if source == entry.source:
            raise
        raise type(error)(f"{path}: was read as {KIND_NAMES[source]}, but {expected}: {error}") from error


def _read_converted(entry: Entry, path: str | Path) -> keras.Model:
    model = read_keras(path)
    if (found := architecture_of(model).name) != entry.architecture:
        raise ZooError(f"{path}: holds {found}, but {entry.name} is {entry.architecture}")
    return model


def _report(entry, path, compared_with, tolerance, differences, left_out=(), counters=None):
    return Report(
        architecture=entry.architecture,
        source_file=Path(path).name,
        source_sha256=sha256_of(path),
        compared_with=compared_with,
        tolerance=tolerance,
        differences=differences,
        entry=entry.name,
        left_out=left_out,
        counters=counters or {},
    )
