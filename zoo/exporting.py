"""Keras networks as weight files and `.keras` files, with a report of what was written."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras

import rfd_tf.models  # noqa: F401  registers our layers
from rfd_tf.files import atomic_path, parse_json
from rfd_tf.models import keras_file
from rfd_tf.models.parity import TOLERANCE, Difference, compare, outputs, random_images
from zoo.architectures import architecture_of
from zoo.errors import FormatError, VerificationError, ZooError
from zoo.http import sha256_of
from zoo.sources import kind_to_write, read_arrays, write_arrays
from zoo.verification import verify

_PACKAGES = ("rfd_tf", "keras", "tensorflow", "numpy", "torch", "protobuf", "h5py")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Report:
    """What was converted from what, and how far apart the two are.

    Args:
        architecture: of the network.
        source_file: name of the file that was read, without its folder.
        source_sha256: of its bytes.
        compared_with: the independent forward pass.
        tolerance: that was kept.
        differences: per output.
        entry: the zoo entry, where there is one.
        left_out: source keys, or layers of a Caffe network, that were not wanted.
        unread: "place: class" of what is beside the weights in a PyTorch file; no code of a file is run.
        heads: outputs of the heads that were converted.
        heads_from: name and SHA-256 of the files that heads were read from, besides `source_file`.
        counters: PyTorch's `num_batches_tracked`, which Keras has no place for, kept for the way back.
        versions: of the packages.
        date: UTC, ISO 8601.
    """

    architecture: str
    source_file: str
    source_sha256: str
    compared_with: str
    tolerance: float
    differences: Mapping[str, Difference]
    entry: str | None = None
    left_out: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    heads_from: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=_versions)
    date: str = field(default_factory=_now)

    def write_beside(self, path: str | Path) -> Path:
        """Write `PATH.json` and return its path."""
        target = report_path(path)
        with atomic_path(target) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        return target

    def lines(self) -> list[str]:
        """For people: one line per output, then what was left out or not read."""
        head = f"{self.architecture}: compared with {self.compared_with}, tolerance {self.tolerance:g}"
        rows = [
            f"  {name:16} max |difference| {d.max_abs_difference:.3g}   max |value| {d.max_abs_value:.3g}"
            for name, d in self.differences.items()
        ]
        notes = {"left out": self.left_out, "not read": self.unread}
        return [head, *rows, *(f"  {what}: {', '.join(names)}" for what, names in notes.items() if names)]


def recorded_counters(path: str | Path) -> dict[str, int]:
    """The counters in the report beside a converted file; empty without a readable report."""
    try:
        counters = parse_json(report_path(path).read_text(encoding="utf-8"))["counters"]
        return {str(key): int(value) for key, value in counters.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}


def report_path(path: str | Path) -> Path:
    """Where the report of a converted file lies."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def recorded_entry(path: str | Path):
    """The zoo entry that a converted file is of, by the report beside it; None without one."""
    from zoo.registry import info

    try:
        return info(parse_json(report_path(path).read_text(encoding="utf-8"))["entry"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZooError):
        return None


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
            differences = compare(
                outputs(read_keras(temporary), images), outputs(model, images), tolerance, VerificationError
            )
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
