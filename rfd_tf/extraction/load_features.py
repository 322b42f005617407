"""Reading features back."""

import os
from collections.abc import Sequence

import numpy as np

from rfd_tf.extraction.local_storage import LocalStorage
from rfd_tf.extraction.settings import MANIFEST_FILE, ExtractionError, Settings
from rfd_tf.extraction.shard import read_shard
from rfd_tf.json_text import parse_json


def load_features(
    folder: str | os.PathLike, outputs: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str], np.ndarray | None]:
    """All features that `rfd extract` wrote into a folder, of both formats.

    Args:
        folder: the folder.
        outputs: those wanted; all by default. They must fit into memory.

    Returns:
        features, name -> [N, ...] of the type they are kept in; index, int64 [N], the instance indices,
        ascending; paths, N names relative to the pictures' root (see docs/extraction.md for unusual ones);
        labels, int64 [N], or None.

    Raises:
        FileNotFoundError: if there is no finished extraction.
        ValueError: on an unknown output, or a damaged file, which is named.

    Example: `features, index, paths, labels = load_features("features")`
    """
    if not os.path.isfile(os.path.join(folder, MANIFEST_FILE)):
        raise FileNotFoundError(f"{folder} holds no {MANIFEST_FILE}: the extraction has not finished")
    storage = LocalStorage(folder)
    settings = _settings(storage)
    outputs = list(settings.outputs) if outputs is None else list(outputs)
    if unknown := [name for name in outputs if name not in settings.outputs]:
        raise ValueError(f"{folder} has no output {unknown[0]!r}; it has {', '.join(settings.outputs)}")
    shards = [read_shard(storage, settings, number, outputs) for number in range(settings.num_shards)]
    return (
        {name: np.concatenate([shard.features[name] for shard in shards]) for name in outputs},
        np.concatenate([shard.index for shard in shards]),
        [path for shard in shards for path in shard.paths],
        np.concatenate([shard.labels for shard in shards]) if settings.labelled else None,
    )


def _settings(storage: LocalStorage) -> Settings:
    where = f"{storage.location}/{MANIFEST_FILE}"
    try:
        fields = parse_json(storage.read(MANIFEST_FILE))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExtractionError(f"{where}: not written by `rfd extract` ({error})") from error
    return Settings.from_dict(fields, where)
