"""From a source file to a Keras network, and to other files; verified before anything is written."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import keras
from absl import logging

from zoo.architectures import architecture, architecture_of, has_heads
from zoo.entry import Entry
from zoo.errors import FormatError, ZooError
from zoo.exporting import read_keras, write_keras, write_verified
from zoo.heads import choose_heads, read_heads
from zoo.http import sha256_of
from zoo.registry import info
from zoo.report import Report, recorded_counters
from zoo.sources import KIND_NAMES, kind_of_file, kind_to_write, read_source
from zoo.verification import TOLERANCE, verify


def convert(
    name: str,
    from_file: str | Path,
    out: str | Path,
    *,
    heads: bool | str = False,
    heads_from: str | Path | Sequence[str | Path] = (),
    fold: bool = False,
    tolerance: float = TOLERANCE,
) -> Report:
    """Convert an entry's file, and write the result with its report `OUT.json` beside it.

    Args:
        name: of the entry, which says what network the file holds.
        from_file: the released file, or the same network in any other file that can be read: PyTorch, Caffe,
            or a `.keras` file of an earlier conversion. Its content tells, else its ending.
        out: ends in `.keras`, `.pth` (needs PyTorch) or `.caffemodel`.
        heads, heads_from: as of `zoo.load`.
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
        if heads_from:
            raise ZooError(f"{from_file}: `heads_from` goes with a checkpoint; convert that itself")
        if heads is True and not has_heads(model):
            raise ZooError(f"{from_file}: was converted without its heads; convert the checkpoint itself")
    else:
        model, report = load_file(entry, from_file, heads=heads, heads_from=heads_from, tolerance=tolerance)
        counters = report.counters
    if fold:
        from zoo.folding import fold_batch_norm

        model = fold_batch_norm(model)
    if report is None or fold or out_kind != "keras":
        counters = {} if fold else counters
        written = write_verified(
            model, out, source=from_file, entry=name, counters=counters, tolerance=tolerance
        )
        kept = ("left_out", "unread", "heads", "heads_from")
        report = replace(written, **{field: getattr(report, field) for field in kept if report is not None})
    else:
        write_keras(model, out)
    report.write_beside(out)
    return report


def load_file(
    entry: Entry,
    path: str | Path,
    *,
    heads: bool | str = False,
    heads_from: str | Path | Sequence[str | Path] = (),
    tolerance: float = TOLERANCE,
) -> tuple[keras.Model, Report]:
    """The network of an entry from its file, and the report of its verification.

    What was left out, or not read, is in the report and in the log.

    Raises:
        ZooError: as `convert`.
    """
    if heads not in (True, False, "auto"):
        raise ZooError(f"`heads` must be True, False or 'auto'. Received: heads={heads!r}")
    files = _listed(heads_from)
    if entry.architecture is None:
        raise ZooError(f"{entry.name} is data and no network: zoo.download({entry.name!r}) gives its path")
    built = architecture(entry.architecture)
    if (heads is True or files) and not built.heads:
        raise ZooError(f"{built.name} has no heads: leave out `heads` and `heads_from`")
    head_state, left_in_heads = read_heads(files, built.heads)
    with _source_of(entry, path) as kind:
        source = read_source(path, kind)
        given = {**source.state, **head_state}
        chosen = choose_heads(built.heads, "auto" if files and not heads else heads, given)
        model = built.model(dict(entry.options), chosen, given)
        weight_map = built.weight_map(kind, model)
        state, spare = source.arrays(rule.source for rule in weight_map.rules)
        state |= head_state
        weight_map.load(state, model)
        differences, compared_with = verify(model, built.name, kind, state, tolerance=tolerance)
        counters = weight_map.counts(state)
    left_out = (*(key for key in weight_map.left_out if key in state), *spare, *left_in_heads)
    report = _report(
        entry,
        path,
        compared_with,
        tolerance,
        differences,
        left_out=left_out,
        counters=counters,
        unread=source.unread,
        heads=chosen,
        heads_from={Path(file).name: sha256_of(file) for file in files},
    )
    _log(path, report, [name for name in built.heads if heads == "auto" and name not in chosen])
    return model, report


def verify_file(
    entry: Entry,
    path: str | Path,
    model_path: str | Path,
    tolerance: float = TOLERANCE,
    heads_from: str | Path | Sequence[str | Path] = (),
) -> Report:
    """Compare a converted `.keras` file with its source again, and its heads with the files they came from.

    Raises:
        ZooError: if a file cannot be read, or they differ.
    """
    model = _read_converted(entry, model_path)
    built = architecture(entry.architecture or "")
    head_state, _ = read_heads(_listed(heads_from), built.heads)
    with _source_of(entry, path) as kind:
        source = read_source(path, kind)
        weight_map = built.weight_map(kind, model)
        state, _ = source.arrays(rule.source for rule in weight_map.rules)
        state |= head_state
        weight_map.check(state, model)
        differences, compared_with = verify(model, built.name, kind, state, tolerance=tolerance)
    return _report(entry, path, compared_with, tolerance, differences)


def _listed(files: str | Path | Sequence[str | Path]) -> tuple[str | Path, ...]:
    return (files,) if isinstance(files, str | Path) else tuple(files)


def _log(path: str | Path, report: Report, lacking: Sequence[str]) -> None:
    if lacking:
        logging.info("%s holds no heads for %s: the network goes on without them", path, ", ".join(lacking))
    for what, names in (("left out", report.left_out), ("not read", report.unread)):
        if names:
            logging.info("%s: %s: %s", path, what, ", ".join(names))


@contextmanager
def _source_of(entry: Entry, path: str | Path) -> Iterator[str]:
    """What arrays the file has: `torch` or `caffe`. Errors within name the file, and what was expected."""
    source = kind_of_file(path, entry.source)
    expected = f"{entry.name} is released as {KIND_NAMES[entry.source]}"
    if source == "keras":
        raise FormatError(f"{path}: is {KIND_NAMES[source]} and holds no source to verify; {expected}")
    try:
        yield source
    except ZooError as error:
        problem = str(error).removeprefix(f"{path}: ")
        if source != entry.source:
            problem = f"was read as {KIND_NAMES[source]}, but {expected}: {problem}"
        raise type(error)(f"{path}: {problem}") from error


def _read_converted(entry: Entry, path: str | Path) -> keras.Model:
    model = read_keras(path)
    if (found := architecture_of(model).name) != entry.architecture:
        raise ZooError(f"{path}: holds {found}, but {entry.name} is {entry.architecture}")
    return model


def _report(entry, path, compared_with, tolerance, differences, **details):
    return Report(
        architecture=entry.architecture,
        source_file=Path(path).name,
        source_sha256=sha256_of(path),
        compared_with=compared_with,
        tolerance=tolerance,
        differences=differences,
        entry=entry.name,
        **details,
    )
