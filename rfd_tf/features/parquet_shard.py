"""Shards as Parquet files.

The columns are `index` (int64), `path` (string), `label` (int64, null where there is none), and for each
output a list of fixed size, a map flattened in the order of rows, columns, channels.

The file's metadata has `rfd_tf`, a JSON text; a column's has its `shape`.
"""

import json
import math
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_KEY = b"rfd_tf"
_ROWS = 1024  # of a row group: what a reader holds at once


def write(file: BinaryIO, shard, settings, metadata: str) -> None:
    """Write a `Shard`."""
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
    pq.write_table(table, file, row_group_size=_ROWS, compression="zstd", use_dictionary=False)


def read(file: BinaryIO, outputs: list[str], settings) -> tuple:
    """The fields of `Shard` but for `skipped`."""
    table = pq.read_table(file, columns=["index", "path", "label", *outputs])
    labels = table["label"].to_numpy() if settings.labelled else None
    features = {}
    for name in outputs:
        values = [chunk.flatten().to_numpy() for chunk in table[name].chunks]
        values = np.concatenate([np.zeros(0, settings.dtype), *values])
        features[name] = values.reshape(-1, *settings.outputs[name])
    return table["index"].to_numpy(), table["path"].to_pylist(), labels, features


def read_metadata(file: BinaryIO) -> str:
    """The JSON text, without reading the features."""
    return pq.read_schema(file).metadata[_KEY].decode()
