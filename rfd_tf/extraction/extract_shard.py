"""Pictures to a shard."""

from collections.abc import Callable

import numpy as np

from rfd_tf.data import BadImageError
from rfd_tf.extraction.names import picture_name
from rfd_tf.extraction.picture_reader import PictureReader
from rfd_tf.extraction.settings import Settings
from rfd_tf.extraction.shard import Shard, Skipped
from rfd_tf.extractors import FeatureExtractor

ON_ERROR = ("skip", "raise")


def extract_shard(
    reader: PictureReader,
    extractor: FeatureExtractor,
    settings: Settings,
    number: int,
    batch_size: int,
    on_error: str = "skip",
    on_batch: Callable[[int], None] = lambda pictures: None,
    offset: int = 0,
) -> Shard:
    """The features of one shard's pictures.

    Args:
        reader: of the pictures.
        extractor: the model.
        settings: which shards there are, and of what.
        number: the shard.
        batch_size: pictures that the model is given at once.
        on_error: `"skip"` notes bad pictures, `"raise"` stops at the first.
        on_batch: called after each batch with the number of pictures that it took, bad ones included.
        offset: instance index of the source's first picture, where the source is a part of the pictures.

    Raises:
        BadImageError: on a bad picture, with `"raise"`; its name first.
        ValueError: if float16 cannot hold a feature.
        OSError: if none of several pictures can be read.
    """
    source, rows = reader.source, np.asarray(settings.rows(number)) - offset
    index, skipped = np.zeros(0, "int64"), []
    features = {
        name: np.zeros((len(rows), *shape), settings.dtype) for name, shape in settings.outputs.items()
    }
    for batch_index, images, bad in reader.batches(rows, batch_size):
        if bad and on_error == "raise":
            row, reason = next(iter(bad.items()))
            raise BadImageError(f"{source.describe(row)}: {reason}")
        if len(images):
            found = extractor(images, list(features))
            for name, values in found.items():
                features[name][len(index) : len(index) + len(images)] = _cast(values, settings.dtype, name)
        index = np.concatenate([index, batch_index])
        skipped += [Skipped(row + offset, picture_name(source, row), reason) for row, reason in bad.items()]
        on_batch(len(images) + len(bad))
    return Shard(
        index + offset,
        [picture_name(source, row) for row in index.tolist()],
        None if source.labels is None else source.labels[index],
        {name: values[: len(index)] for name, values in features.items()},
        skipped,
    )


def _cast(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if dtype == "float16" and (np.isinf(cast) & np.isfinite(values)).any():
        raise ValueError(
            f"Output {name!r} has the value {np.abs(values[np.isfinite(values)]).max():g}, which float16 "
            "cannot hold: give dtype=float32"
        )
    return cast
