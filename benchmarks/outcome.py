"""What a benchmark found, as a file in `benchmarks/results/MACHINE/` that `benchmarks.table` reads."""

import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from rfd_tf.files import write_text
from rfd_tf.runs.provenance import machine, now, versions

RESULTS = Path(__file__).parent / "results"
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        point: 1 to 6, as in `benchmarks/README.md`.
        what: was measured, with its size.
        unit: of `ours` and `theirs`.
        ours: `harness.spread` of the library's figures.
        theirs: of what a user would run instead; None where there is nothing to compare with.
        against: what that is.
        ratio: of ours to theirs, above 1 where the library is better.
        goal: in words; empty where there is none.
        met: whether it is; None without a goal.
        why: a goal was missed, and the next idea.
    """

    point: int
    what: str
    unit: str
    ours: dict
    theirs: dict | None = None
    against: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    why: str = ""


def save(name: str, rows: list[Row], details: dict | None = None) -> Path:
    """Write rows, with where, how and when they were measured, to `results/MACHINE/NAME.json`; print them."""
    from benchmarks.table import table

    here = {**machine(), "instructions": instructions()}
    record = {
        "command": shlex.join(["python", "-m", f"benchmarks.{name.partition('-')[0]}", *sys.argv[1:]]),
        "measured": now(),
        "machine": here,
        "versions": versions() | _torch_version(),
        "rows": [dataclasses.asdict(row) for row in rows],
        "details": details or {},
    }
    path = RESULTS / _kind(here) / f"{name}.json"
    write_text(path, json.dumps(record, indent=1) + "\n")
    print(table([record]))
    for key, value in record["details"].items():
        print(f"{key}: {value}")
    return path


def _kind(machine: Mapping[str, str]) -> str:
    """A folder's name for machines of a kind: maker and the best of the instructions, as `amd-avx2`."""
    maker = re.match(r"\w+", machine["processor"].lower())
    names = [*machine["instructions"].split(), "unknown"]
    best = max(names, key=lambda name: _INSTRUCTIONS.index(name) if name in _INSTRUCTIONS else -1)
    return f"{maker[0] if maker else 'unknown'}-{best}"


def instructions() -> str:
    """Those of `INSTRUCTIONS` that this processor has, with spaces between them."""
    information = Path("/proc/cpuinfo")
    flags = information.read_text(encoding="utf-8").split() if information.exists() else ()
    return " ".join(name for name in _INSTRUCTIONS if name in flags)


def _torch_version() -> dict[str, str]:
    from importlib import metadata

    try:
        return {"torch": metadata.version("torch")}
    except metadata.PackageNotFoundError:
        return {}
