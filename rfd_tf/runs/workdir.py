"""The folder of a run: whose it is, its lock, its config and its history."""

import contextlib
import csv
import io
import json
import re
from pathlib import Path

import filelock
import numpy as np
from ml_collections import ConfigDict

from rfd_tf.configs import base  # type: ignore[attr-defined]  # of the folder at the top
from rfd_tf.configs.classify import classify
from rfd_tf.files import FORMER_VALUES, differences, fits, parse_json, remove_partial, write_text

CONFIG_FILE = "config.json"
BACKBONE_FILE = "backbone.keras"
HISTORY_FILE = "history.csv"
HEADS_FILE = "heads.keras"  # beside it: rotation probabilities and embedding of its features
CACHE_FOLDER = "cache"
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
            raise WorkdirError(f"{saved_at} is not a config of a run ({error})") from error
        if not isinstance(saved, dict):
            raise WorkdirError(f"{saved_at} is not a config of a run: it is not an object")
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

    What killed processes left half-written of a run's files is removed; only who holds the lock writes
    these.

    Raises:
        WorkdirError: if another process trains in it.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path / ".lock", timeout=0):
            remove_partial(path, (CONFIG_FILE, HISTORY_FILE, BACKBONE_FILE, HEADS_FILE))
            yield
    except filelock.Timeout:
        raise WorkdirError(f"Another process trains in {path}") from None


def _is_ours(name: str) -> bool:
    """What may be there before the config is: locks, findings about images, other workers' folders."""
    return name.startswith((".", "worker-")) or name == CACHE_FOLDER


def _through_json(config: dict) -> dict:
    return json.loads(json.dumps(config))  # tuples become the lists that they are stored as


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
    return bool(row) and len(row) == len(header) and bool(_EPOCH.fullmatch(row[0])) and int(row[0]) < epochs


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line)), [])
    except csv.Error:
        return []


def read_history(path: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV history as floats; what is not a number is NaN."""
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        try:
            reader = csv.DictReader(file)
            names, rows = reader.fieldnames or [], list(reader)
        except csv.Error as error:
            raise ValueError(f"{path} is no CSV table ({error})") from error
    if not rows:
        raise ValueError(f"{path} has no rows")
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


# Without these nothing can be said of a run.
NEEDED = ("epochs", "batch_size", "seed", "data", "validation", "preprocessing", "backbone")


def read_run_config(workdir: Path, *more: str) -> ConfigDict:
    """What `workdir/config.json` holds; fields that came after the run have the values that it went by.

    Args:
        workdir: of the run.
        *more: fields that it must have besides `NEEDED`.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not a config of `rfd train`: not JSON, lacking a field, or with one
            of another type than its default. The message names the file and the field.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} is not the folder of a run: it holds no {CONFIG_FILE}")
    try:
        fields = parse_json(path.read_bytes())
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")
        fields.setdefault("kind", "pretrain" if "method" in fields else "classify")  # runs from before it
        like = (classify if fields["kind"] == "classify" else base).get_config().to_dict()
        if missing := [field for field in (*NEEDED, *more) if field not in fields]:
            raise ValueError(f"it has no field {missing[0]!r}")
        _complete(fields, like, "")
        return ConfigDict(fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a config of a run ({error})") from error


def _complete(fields: dict, like: dict, prefix: str) -> None:
    """Check the types of known fields; add those that came later, with the values that the run went by."""
    for name, default in like.items():
        value = fields.setdefault(name, FORMER_VALUES.get(name, type(default)()))
        if not fits(value, type(default)):
            raise ValueError(f"its field {prefix}{name} is {value!r:.80}")
        if isinstance(default, dict):
            _complete(value, default, f"{prefix}{name}.")
