"""An export's folder: what is new appears whole, once everything about it is right."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rfd_tf.atomic import naming, write_text
from rfd_tf.json_text import parse_json

REPORT = "parity.json"
SAVED_MODEL = "saved_model"
MERGED = (SAVED_MODEL, "serving")  # a container has mounted these: a new folder would not be seen in it
FORMAT = 1


def check_target(out: Path, model: str, version: int, overwrite: bool) -> None:
    """Refuses a folder that cannot take this version of this model.

    Raises:
        FileExistsError: if the version is there, unless `overwrite`.
        ValueError: if `out` is something else than an export of the model named `model`.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is no folder")
    strangers = sorted(child.name for child in out.iterdir() if not child.name.startswith("."))
    if not strangers:
        return
    if not (out / REPORT).is_file():
        raise ValueError(f"{out} holds {strangers[0]!r} and no {REPORT}: give a new folder")
    report = read_report(out)
    if report["model"] != model:
        raise ValueError(f"{out} is an export of {report['model']!r}, not of {model!r}: give another folder")
    taken = str(version) in report["versions"] or (out / SAVED_MODEL / str(version)).exists()
    if taken and not overwrite:
        raise FileExistsError(f"{out} holds version {version}: give --version=N of a new one, or --overwrite")


def read_report(out: Path) -> dict:
    """What `out/parity.json` says; ValueError if it is something else."""
    path = out / REPORT
    try:
        report = parse_json(path.read_text(encoding="utf-8"))
        if report["format"] > FORMAT or not isinstance(report["versions"], dict):
            raise ValueError("it was written by a newer version")
        return report
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: no report of an export ({error})") from error


def write_report(staging: Path, out: Path, model: str, version: int, entry: dict) -> None:
    """Writes `staging/parity.json`: the entries of `out`'s other versions, and this one's."""
    versions = read_report(out)["versions"] if (out / REPORT).is_file() else {}
    versions[str(version)] = entry
    ordered = dict(sorted(versions.items(), key=lambda item: int(item[0])))
    report = {"format": FORMAT, "model": model, "versions": ordered}
    write_text(staging / REPORT, json.dumps(report, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A hidden temporary folder to fill; what it holds goes into `out` when the block ends.

    A new `out` appears by one renaming. In one that exists, files and versions of the SavedModel are replaced
    one by one, each by one renaming, the report last. If the block raises, `out` stays as it was.
    """
    exists = out.exists()
    staging = (
        out / f".export.{os.getpid()}.partial"
        if exists
        else out.with_name(f".{out.name}.{os.getpid()}.partial")
    )
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process with this one's number
    staging.mkdir(parents=True)
    try:
        with naming(out):
            yield staging
        if exists:
            _publish(staging, out)
        else:
            staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, out: Path) -> None:
    old = staging / ".old"
    # By name, `saved_model` comes before `serving`, whose `models.config` a running server follows.
    for item in sorted(staging.iterdir(), key=lambda item: (item.name == REPORT, item.name)):
        final = out / item.name
        if item.name in MERGED:
            final.mkdir(exist_ok=True)
            for part in sorted(item.iterdir()):
                _replace(part, final / part.name, old)
        else:
            _replace(item, final, old)


def _replace(new: Path, final: Path, old: Path) -> None:
    if final.is_dir():
        old.mkdir(exist_ok=True)
        final.rename(old / final.name)
    os.replace(new, final)
