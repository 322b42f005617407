"""The folder of a run: which config it belongs to, and its history."""

import contextlib
import csv
import io
import json
import re
from pathlib import Path

import filelock

from rfd_tf.atomic import write_text
from rfd_tf.json_text import parse_json

CONFIG_FILE = "config.json"
BACKBONE_FILE = "backbone.keras"
HISTORY_FILE = "history.csv"
HEADS_FILE = "heads.keras"  # beside it: rotation probabilities and embedding of its features
CACHE_FOLDER = "cache"
_MISSING = object()
# What runs did before these fields were there. Any other field that they lack was off: empty, zero, false.
_BEFORE = {
    "color_jitter_probability": 1.0,
    "crops": 1,
    "instance_loss": "nce",
    "margins": "rotation",
    "norm_scale_init": "ones",
    "on_collapse": "warn",
    "normalizer_momentum": 1.0,
}
_EPOCH = re.compile(r"[0-9]{1,9}")


class WorkdirError(ValueError):
    """The folder belongs to another run."""


def check_workdir(path: Path, config: dict) -> None:
    """Refuse a folder that cannot be the one of a run of `config`.

    Raises:
        WorkdirError: if it holds a run of another config (the differing fields are named), or files that are
            no run of ours.
    """
    saved_at = path / CONFIG_FILE
    if saved_at.exists():
        try:
            saved = parse_json(saved_at.read_bytes())
        except ValueError as error:
            raise WorkdirError(f"{saved_at} is no config of a run ({error})") from error
        if not isinstance(saved, dict):
            raise WorkdirError(f"{saved_at} is no config of a run: it is no object")
        if found := differences(saved, _through_json(config)):
            raise WorkdirError(f"{path} holds a run of another config. " + "; ".join(found))
    elif path.exists() and (
        strangers := [child.name for child in path.iterdir() if not _is_ours(child.name)]
    ):
        raise WorkdirError(f"{path} holds {strangers[0]!r} and no {CONFIG_FILE}: give a new folder")


def claim_workdir(path: Path, config: dict) -> None:
    """Record whose folder it is, once everything is known to be in order: then training may begin."""
    if not (path / CONFIG_FILE).exists():
        write_text(path / CONFIG_FILE, json.dumps(_through_json(config), indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def lock_workdir(path: Path):
    """Keep other processes out of the folder, which is made if missing.

    Raises:
        WorkdirError: if another process trains in it.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path / ".lock", timeout=0):
            yield
    except filelock.Timeout:
        raise WorkdirError(f"Another process trains in {path}") from None


def _is_ours(name: str) -> bool:
    """What may be there before the config is: locks, findings about images, other workers' folders."""
    return name.startswith((".", "worker-")) or name == CACHE_FOLDER


def _through_json(config: dict) -> dict:
    return json.loads(json.dumps(config))  # tuples become the lists that they are stored as


def differences(saved: dict, config: dict, prefix: str = "") -> list[str]:
    """Where two nested dicts of JSON values differ, for people; `prefix` goes before each field's name.

    A new field that is off (empty, zero, false), or as it was before it could be set, is no difference.
    """
    found = []
    for name in sorted({*saved, *config}):
        there, here = saved.get(name, _MISSING), config.get(name, _MISSING)
        if there is _MISSING and (not here or here == _BEFORE.get(name)):
            continue  # a switch that an earlier version did not have is off
        if isinstance(there, dict) and isinstance(here, dict):
            found += differences(there, here, f"{prefix}{name}.")
        elif there is _MISSING or here is _MISSING or there != here:
            shown = ["absent" if value is _MISSING else repr(value) for value in (there, here)]
            found.append(f"{prefix}{name}: {shown[0]} there, {shown[1]} now")
    return found


def trim_history(path: Path, epochs: int) -> None:
    """Keep the whole rows of epochs below `epochs` in a CSV history: what a resumed run will not write again.

    A row that was being written when the process died is dropped, too.
    """
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    header = _cells(lines[0]) if lines else []
    kept = [line for line in lines[1:] if line.endswith("\n") and _is_row_below(line, header, epochs)]
    if not lines or not lines[0].endswith("\n") or not kept:
        path.unlink()  # an empty history gets its header from the next writer
        return
    write_text(path, "".join([lines[0], *kept]))


def _is_row_below(line: str, header: list[str], epochs: int) -> bool:
    row = _cells(line)
    return bool(row) and len(row) == len(header) and _EPOCH.fullmatch(row[0]) and int(row[0]) < epochs


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line)), [])
    except csv.Error:
        return []
