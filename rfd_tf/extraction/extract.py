"""Features of a collection of pictures, on this machine."""

import sys

from tqdm import tqdm

from rfd_tf.data import Source
from rfd_tf.extraction.extract_shard import ON_ERROR, extract_shard
from rfd_tf.extraction.local_storage import LocalStorage
from rfd_tf.extraction.manifest import pending_shards, write_manifest
from rfd_tf.extraction.picture_reader import PictureReader
from rfd_tf.extraction.settings import Settings, claim
from rfd_tf.extraction.shard import Skipped, shard_format, write_shard
from rfd_tf.extractors import FeatureExtractor
from rfd_tf.progress_bar import progress_bar
from rfd_tf.stop_signals import Stopped, StopSignals

NAMED = 20  # skipped pictures that are printed


class ExtractionStopped(Stopped):
    """Shards remain to be written."""


def extract(
    extractor: FeatureExtractor,
    source: Source,
    settings: Settings,
    storage: LocalStorage,
    batch_size: int = 64,
    on_error: str = "skip",
) -> list[Skipped]:
    """Write the features of all pictures; continue where an earlier call was interrupted.

    Args:
        extractor: the model.
        source: the pictures.
        settings: `settings.describe_extraction` of both.
        storage: the folder; ends with `settings.json`, a shard for each `shard_size` pictures, and
            `manifest.json`, written last. Whoever calls holds its lock.
        batch_size: pictures that the model is given at once.
        on_error: `"skip"` notes bad pictures and goes on, `"raise"` stops at the first.

    Returns:
        The skipped pictures, those of earlier calls too.

    Raises:
        ExtractionError: if the folder holds something else, or features of other settings.
        BadImageError: on a bad picture with `"raise"`, or if none is good.
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
    reader = PictureReader(source, extractor.info.preprocessing, settings.max_pixels)
    with StopSignals() as signals, _progress(settings, pending) as bar:
        named = 0
        for done, number in enumerate(pending, start=settings.num_shards - len(pending)):

            def on_batch(pictures: int, done: int = done) -> None:
                bar.update(pictures)
                if signals.received is not None:
                    raise ExtractionStopped(
                        signals.received, f"{done} of {settings.num_shards} shards are written"
                    )

            shard = extract_shard(reader, extractor, settings, number, batch_size, on_error, on_batch)
            write_shard(storage, settings, number, shard)
            for picture in shard.skipped[: NAMED - named]:
                bar.write(f"skipped {picture.path}: {picture.reason}", file=sys.stderr)
                named += 1
    return write_manifest(storage, settings, source.left_out)


def _progress(settings: Settings, pending: list[int]) -> tqdm:
    total = settings.num_images
    left = sum(len(settings.rows(number)) for number in pending)
    return progress_bar("Extracting", total, done=total - left, smoothing=0.05, disable=not pending)
