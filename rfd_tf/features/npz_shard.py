"""Shards as `.npz` files, without anything pickled.

The arrays are `index` [n], `path` [n], `label` [n] where there are labels, each output [n, ...], and
`metadata`, a JSON text.
"""

from typing import BinaryIO

import numpy as np


def write(file: BinaryIO, shard, settings, metadata: str) -> None:
    """Write a `Shard`."""
    labels = {} if shard.labels is None else {"label": shard.labels}
    paths = np.asarray(shard.paths, dtype=np.str_)
    np.savez(
        file,
        index=shard.index,
        path=paths,
        **labels,
        **shard.features,
        metadata=np.asarray(metadata, np.str_),
    )


def read(file: BinaryIO, outputs: list[str], settings) -> tuple:
    """The fields of `Shard` but for `skipped`."""
    with np.load(file, allow_pickle=False) as arrays:
        labels = arrays["label"] if "label" in arrays.files else None
        features = {name: arrays[name] for name in outputs}
        return arrays["index"], arrays["path"].tolist(), labels, features


def read_metadata(file: BinaryIO) -> str:
    """The JSON text, without reading the features."""
    with np.load(file, allow_pickle=False) as arrays:
        return str(arrays["metadata"])
