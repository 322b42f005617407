"""The formats of shards: how a `Shard` becomes a file that other programs read, and back.

Each has `write` (a file, a shard, its settings, a JSON text), `read` (the fields of `Shard` but for the
skipped images) and `read_metadata` (the JSON text, without reading the features).
"""

import json
import math
from typing import BinaryIO

import numpy as np

_KEY = b"rfd_tf"
_ROWS = 1024  # of a row group of Parquet: what a reader holds at once


class Npz:
    """`.npz` files, without anything pickled.

    The arrays are `index` [n], `path` [n], `label` [n] where there are labels, each output [n, ...], and
    `metadata`.
    """

    def write(self, file: BinaryIO, shard, settings, metadata: str) -> None:
        labels = {} if shard.labels is None else {"label": shard.labels}
        paths = np.asarray(shard.paths, dtype=np.str_)
        told = np.asarray(metadata, np.str_)
        np.savez(file, index=shard.index, path=paths, **labels, **shard.features, metadata=told)

    def read(self, file: BinaryIO, outputs: list[str], settings) -> tuple:
        with np.load(file, allow_pickle=False) as arrays:
            labels = arrays["label"] if "label" in arrays.files else None
            features = {name: arrays[name] for name in outputs}
            return arrays["index"], arrays["path"].tolist(), labels, features

    def read_metadata(self, file: BinaryIO) -> str:
        with np.load(file, allow_pickle=False) as arrays:
            return str(arrays["metadata"])


class Parquet:
    """Parquet files.

    The columns are `index` (int64), `path` (string), `label` (int64, null where there is none), and for each
    output a list of fixed size, a map flattened in the order of rows, columns, channels. The file's metadata
    has `rfd_tf`; a column's has its `shape`.

    Raises:
        ImportError: without pyarrow.
    """

    def __init__(self):
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ImportError(
                f"Parquet needs pyarrow: pip install 'rfd_tf[parquet]', or give format=npz ({error})"
            ) from None
        self.pa, self.pq = pyarrow, pyarrow.parquet

    def write(self, file: BinaryIO, shard, settings, metadata: str) -> None:
        pa = self.pa
        fields = [("index", pa.int64()), ("path", pa.string()), ("label", pa.int64())]
        fields = [pa.field(*field, nullable=field[0] == "label") for field in fields]
        labels = pa.nulls(len(shard.index), pa.int64()) if shard.labels is None else pa.array(shard.labels)
        columns = [pa.array(shard.index), pa.array(shard.paths, pa.string()), labels]
        for name, values in shard.features.items():
            size = math.prod(settings.outputs[name])
            column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)
            columns.append(column)
            shape = json.dumps(settings.outputs[name])
            fields.append(pa.field(name, column.type, nullable=False, metadata={"shape": shape}))
        schema = pa.schema(fields, metadata={_KEY: metadata})
        table = pa.Table.from_arrays(columns, schema=schema)
        # Features hardly repeat, and a dictionary of them would be tried first.
        self.pq.write_table(table, file, row_group_size=_ROWS, compression="zstd", use_dictionary=False)

    def read(self, file: BinaryIO, outputs: list[str], settings) -> tuple:
        table = self.pq.read_table(file, columns=["index", "path", "label", *outputs])
        labels = table["label"].to_numpy() if settings.labelled else None
        features = {}
        for name in outputs:
            values = [chunk.flatten().to_numpy() for chunk in table[name].chunks]
            values = np.concatenate([np.zeros(0, settings.dtype), *values])
            features[name] = values.reshape(-1, *settings.outputs[name])
        return table["index"].to_numpy(), table["path"].to_pylist(), labels, features

    def read_metadata(self, file: BinaryIO) -> str:
        return self.pq.read_schema(file).metadata[_KEY].decode()


def shard_format(name: str) -> Npz | Parquet:
    """The format called `npz` or `parquet`; ImportError where its package is not there."""
    return Npz() if name == "npz" else Parquet()
