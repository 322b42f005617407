"""Features of a whole collection of images, in shards; and reading them back."""

import os
import sys
from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from rfd_tf.data import BadImageError, Source
from rfd_tf.features.feature_model import FeatureModel
from rfd_tf.features.images import ImageReader
from rfd_tf.features.store import (
    MANIFEST_FILE,
    ExtractionError,
    LocalStorage,
    Settings,
    Shard,
    Skipped,
    claim,
    image_name,
    pending_shards,
    read_shard,
    shard_format,
    write_manifest,
    write_shard,
)
from rfd_tf.files import parse_json
from rfd_tf.terminal import Stopped, StopSignals, progress_bar

ON_ERROR = ("skip", "raise")


def extract_shard(
    reader: ImageReader,
    feature_model: FeatureModel,
    settings: Settings,
    number: int,
    batch_size: int,
    on_error: str = "skip",
    on_batch: Callable[[int], None] = lambda count: None,
    offset: int = 0,
) -> Shard:
    """The features of one shard's images.

    Args:
        reader: of the images.
        feature_model: the model.
        settings: which shards there are, and of what.
        number: the shard.
        batch_size: images that the model is given at once.
        on_error: `"skip"` notes bad images, `"raise"` stops at the first.
        on_batch: called after each batch with the number of images that it took, bad ones included.
        offset: instance index of the source's first image, where the source is a part of the images.

    Raises:
        BadImageError: on a bad image, with `"raise"`; its name first.
        ValueError: if float16 cannot hold a feature.
        OSError: if none of several images can be read.
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
            found = feature_model(images, list(features))
            for name, values in found.items():
                features[name][len(index) : len(index) + len(images)] = _cast(values, settings.dtype, name)
        index = np.concatenate([index, batch_index])
        skipped += [Skipped(row + offset, image_name(source, row), reason) for row, reason in bad.items()]
        on_batch(len(images) + len(bad))
    return Shard(
        index + offset,
        [image_name(source, row) for row in index.tolist()],
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


NAMED = 20  # skipped images that are printed


class ExtractionStopped(Stopped):
    """Shards remain to be written."""


def extract(
    feature_model: FeatureModel,
    source: Source,
    settings: Settings,
    storage: LocalStorage,
    batch_size: int = 64,
    on_error: str = "skip",
) -> list[Skipped]:
    """Write the features of all images; continue where an earlier call was interrupted.

    Args:
        feature_model: the model.
        source: the images.
        settings: `settings.describe_extraction` of both.
        storage: the folder; ends with `settings.json`, a shard for each `shard_size` images, and
            `manifest.json`, written last. Whoever calls holds its lock.
        batch_size: images that the model is given at once.
        on_error: `"skip"` notes bad images and goes on, `"raise"` stops at the first.

    Returns:
        The skipped images, those of earlier calls too.

    Raises:
        ExtractionError: if the folder holds something else, or features of other settings.
        BadImageError: on a bad image with `"raise"`, or if none is good.
        ExtractionStopped: on SIGTERM or Ctrl-C, after the batch in work; the shard in work is not kept.
        ValueError: on an argument out of range.
        OSError: where reading or writing fails.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
    if on_error not in ON_ERROR:
        raise ValueError(f"`on_error` must be one of {', '.join(ON_ERROR)}. Received: {on_error!r}")
    shard_format(settings.format)  # refused before the work rather than after the first shard
    claim(storage, settings)
    pending = pending_shards(storage, settings, on_error)
    reader = ImageReader(source, feature_model.info.preprocessing, settings.max_pixels)
    with StopSignals() as signals, _progress(settings, pending) as bar:
        named = 0
        for done, number in enumerate(pending, start=settings.num_shards - len(pending)):

            def on_batch(images: int, done: int = done) -> None:
                bar.update(images)
                if signals.received is not None:
                    raise ExtractionStopped(
                        signals.received, f"{done} of {settings.num_shards} shards are written"
                    )

            shard = extract_shard(reader, feature_model, settings, number, batch_size, on_error, on_batch)
            write_shard(storage, settings, number, shard)
            for image in shard.skipped[: NAMED - named]:
                bar.write(f"skipped {image.path}: {image.reason}", file=sys.stderr)
                named += 1
    return write_manifest(storage, settings, source.left_out)


def _progress(settings: Settings, pending: list[int]) -> tqdm:
    total = settings.num_images
    left = sum(len(settings.rows(number)) for number in pending)
    return progress_bar("Extracting", total, done=total - left, smoothing=0.05, disable=not pending)


def load_features(
    folder: str | os.PathLike, outputs: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray, list[str], np.ndarray | None]:
    """All features that `rfd extract` wrote into a folder, of both formats.

    Args:
        folder: the folder.
        outputs: those wanted; all by default. They must fit into memory.

    Returns:
        features, name -> [N, ...] of the type they are kept in; index, int64 [N], the instance indices,
        ascending; paths, N names relative to the images' root (see docs/extraction.md for unusual ones);
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
