"""The features of one run of pictures."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator

import numpy as np

from rfd_tf.extraction.settings import ExtractionError, Settings
from rfd_tf.extraction.storage import Storage
from rfd_tf.json_text import parse_json


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A picture that could not be used.

    Attributes:
        index: its instance index.
        path: its name, as in the shards.
        reason: why, in one line.
    """

    index: int
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """Features of n pictures.

    Attributes:
        index: int64 [n], instance indices, ascending.
        paths: n names (`names.picture_name`).
        labels: int64 [n] or None.
        features: name -> [n, ...].
        skipped: the other pictures of the shard's rows.
    """

    index: np.ndarray
    paths: list[str]
    labels: np.ndarray | None
    features: dict[str, np.ndarray]
    skipped: list[Skipped]


def write_shard(storage: Storage, settings: Settings, number: int, shard: Shard) -> None:
    """Write a shard, whole or not at all."""
    with storage.write(settings.shard_file(number)) as file:
        shard_format(settings.format).write(file, shard, settings, shard_metadata(settings, number, shard))


def read_shard(storage: Storage, settings: Settings, number: int, outputs: list[str]) -> Shard:
    """Read a shard with some of its outputs.

    Raises:
        ExtractionError: if it is damaged or of other settings.
        FileNotFoundError: if there is none.
    """
    name = settings.shard_file(number)
    skipped = read_skipped(storage, settings, number)
    with storage.open(name) as file, _naming(storage, name):
        columns = shard_format(settings.format).read(file, outputs, settings)
    return Shard(*columns, skipped)


def read_skipped(storage: Storage, settings: Settings, number: int) -> list[Skipped]:
    """The skipped pictures of a shard, from its metadata; errors as `read_shard`."""
    name = settings.shard_file(number)
    with storage.open(name) as file, _naming(storage, name):
        metadata = parse_json(shard_format(settings.format).read_metadata(file))
        skipped = [Skipped(**fields) for fields in metadata["skipped"]]
        found = settings.differences(metadata["settings"])
    if found:
        raise ExtractionError(f"{storage.location}/{name} is of other settings. " + "; ".join(found))
    return skipped


def shard_metadata(settings: Settings, number: int, shard: Shard) -> str:
    """What travels inside a shard, as JSON: settings, which rows it covers, and what was skipped."""
    rows = settings.rows(number)
    return json.dumps(
        {
            "settings": settings.to_dict(),
            "first": rows.start,
            "stop": rows.stop,
            "skipped": [dataclasses.asdict(picture) for picture in shard.skipped],
        }
    )


@contextlib.contextmanager
def _naming(storage: Storage, name: str) -> Iterator[None]:
    """Errors of reading a damaged file name it."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # zipfile, NumPy and Arrow each have their own
        raise ExtractionError(f"{storage.location}/{name} is damaged ({error}): delete it") from error


def shard_format(name: str):
    """The module that writes and reads shards of a format; ImportError where its package is not there."""
    if name == "npz":
        from rfd_tf.extraction import npz_shard

        return npz_shard
    try:
        from rfd_tf.extraction import parquet_shard
    except ImportError as error:
        raise ImportError(
            f"Parquet needs pyarrow: pip install 'rfd_tf[parquet]', or give format=npz ({error})"
        ) from None
    return parquet_shard
