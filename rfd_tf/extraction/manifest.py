"""The last file of an extraction: what there is."""

import dataclasses
import datetime
import importlib.metadata
import json
from collections.abc import Mapping

from rfd_tf.data import BadImageError
from rfd_tf.extraction.settings import MANIFEST_FILE, Settings
from rfd_tf.extraction.shard import Skipped, read_skipped
from rfd_tf.extraction.storage import Storage

FORMAT = 1
_PACKAGES = ("rfd_tf", "tensorflow", "keras", "numpy", "pyarrow")


def pending_shards(storage: Storage, settings: Settings, on_error: str = "skip") -> list[int]:
    """The shards that are not there yet.

    Raises:
        ExtractionError: if one that is there is damaged or of other settings.
        BadImageError: if one has skipped a picture and `on_error` is `"raise"`.
    """
    names, pending = storage.names(), []
    for number in range(settings.num_shards):
        if settings.shard_file(number) not in names:
            pending.append(number)
        elif (skipped := read_skipped(storage, settings, number)) and on_error == "raise":
            raise BadImageError(f"{skipped[0].path}: {skipped[0].reason} (skipped earlier)")
    return pending


def write_manifest(
    storage: Storage, settings: Settings, left_out: Mapping[str, int] | None = None
) -> list[Skipped]:
    """Write `manifest.json` once every shard is there; the skipped pictures.

    Args:
        storage, settings: of the extraction.
        left_out: of the source; none by default.

    Raises:
        BadImageError: if no picture could be used.
        ExtractionError: if a shard is missing, damaged or of other settings.
    """
    shards, skipped = [], []
    for number in range(settings.num_shards):
        bad = read_skipped(storage, settings, number)
        rows = settings.rows(number)
        skipped += bad
        shards.append(
            {
                "file": settings.shard_file(number),
                "first": rows.start,
                "stop": rows.stop,
                "rows": len(rows) - len(bad),
            }
        )
    if len(skipped) == settings.num_images:
        raise BadImageError(
            f"None of the {len(skipped)} pictures can be used, as {skipped[0].path}: {skipped[0].reason}"
        )
    manifest = {
        "format": FORMAT,
        "pictures": settings.num_images,
        "extracted": settings.num_images - len(skipped),
        "outputs": settings.outputs,
        "dtype": settings.dtype,
        "shards": shards,
        "skipped": [dataclasses.asdict(picture) for picture in skipped],
        "left_out": dict(left_out or {}),
        "settings": settings.to_dict(),
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    storage.write_text(MANIFEST_FILE, json.dumps(manifest, indent=1) + "\n")
    return skipped


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
