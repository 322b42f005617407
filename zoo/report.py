"""The report of a conversion, kept beside the converted file."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rfd_tf.files import atomic_path, parse_json
from zoo.errors import ZooError
from zoo.verification import Difference

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
