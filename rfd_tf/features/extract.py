"""Features of a whole collection of images, in shards; and reading them back."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from rfd_tf.data import BadImageError, Preprocessing, Source, host_constant
from rfd_tf.data.bad_images import one_line
from rfd_tf.data.source import image_name
from rfd_tf.features.feature_model import FeatureModel
from rfd_tf.features.store import (
    MANIFEST_FILE,
    ExtractionError,
    Settings,
    Shard,
    Skipped,
    claim,
    pending_shards,
    read_shard,
    shard_format,
    write_manifest,
    write_shard,
)
from rfd_tf.files import LocalStorage, parse_json
from rfd_tf.image_header import MAX_PIXELS, check_encoded
from rfd_tf.terminal import Stopped, StopSignals, progress_bar

PREFETCHED_BATCHES = 2


class ImageReader:
    """Images of a source, ready for the network; the bad ones are told apart, not fatal.

    Reading and decoding run in parallel, each image once. One that fails is dropped by the pipeline, which
    goes on; its gap in the order is seen, and it alone is tried again, to learn why.

    Args:
        source: the images.
        preprocessing: its `eval_image` prepares them.
        max_pixels: larger ones are refused by their header (`image_header.check_encoded`).
    """

    def __init__(self, source: Source, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS):
        self.source = source
        self.preprocessing = preprocessing
        self.max_pixels = max_pixels
        self._unread: list[str] = []
        self._example = tf.function(self._prepared, [tf.TensorSpec([], tf.int64)], autograph=False)

    def batches(
        self, rows: npt.ArrayLike, batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
        """The images `rows`, ascending, in order.

        Yields:
            (indices of the good images, int64 [b]; these, float32 [b, S, S, 3]; the reason for each bad
            image since the last batch, by index); b is about `batch_size` or less, and may be 0.

        Raises:
            OSError: at the end, if of several images none could be read at all: a disk that is gone, rather
                than bad images.
        """
        rows = np.asarray(rows, dtype="int64")
        dataset = tf.data.Dataset.from_tensor_slices(host_constant(rows))
        dataset = dataset.map(self._example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        dataset = dataset.ignore_errors().batch(batch_size).prefetch(PREFETCHED_BATCHES)
        passed = 0
        self._unread = []
        for index, images in dataset.as_numpy_iterator():
            end = int(np.searchsorted(rows, index[-1])) + 1
            yield self._with_missing(rows[passed:end], index, images)
            passed = end
        for start in range(passed, len(rows), batch_size):
            size = self.preprocessing.image_size
            none = np.zeros(0, "int64"), np.zeros((0, size, size, 3), "float32")
            yield self._with_missing(rows[start : start + batch_size], *none)
        if len(self._unread) == len(rows) > 1:
            raise OSError(f"None of {len(rows)} images can be read, as {self._unread[0]}")

    def _with_missing(self, rows: np.ndarray, index: np.ndarray, images: np.ndarray):
        """The batch, with those of the dropped `rows` put in that succeed when tried again."""
        bad: dict[int, str] = {}
        for row in np.setdiff1d(rows, index).tolist():
            try:
                image = self._alone(row)
            except Exception as error:  # whatever the source or a decoder raises is this image's reason
                bad[row] = one_line(error)
                continue
            at = np.searchsorted(index, row)
            index, images = np.insert(index, at, row), np.insert(images, at, image, axis=0)
        return index, images, bad

    def _alone(self, row: int) -> np.ndarray:
        try:
            fetched = self.source.fetch(tf.constant(row, tf.int64))
        except Exception as error:
            self._unread.append(f"{self.source.describe(row)}: {one_line(error)}")
            raise
        if self.source.encoded and (reason := check_encoded(fetched.numpy(), self.max_pixels)):
            raise ValueError(reason)
        return self.preprocessing.eval_image(fetched).numpy()

    def _prepared(self, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        fetched = self.source.fetch(row)
        if self.source.encoded:
            good = tf.numpy_function(self._is_good, [fetched], tf.bool, stateful=False)
            with tf.control_dependencies([tf.debugging.Assert(good, ["refused by its header"])]):
                fetched = tf.identity(fetched)
        return row, self.preprocessing.eval_image(fetched)

    def _is_good(self, content: bytes) -> bool:
        return check_encoded(content, self.max_pixels) is None


ON_ERROR = ("skip", "raise")


@dataclasses.dataclass(frozen=True)
class ExtractOptions:
    """How a collection is gone through; no shard's content depends on it.

    Attributes:
        batch_size: images that the model is given at once.
        on_error: `"skip"` notes bad images and goes on, `"raise"` stops at the first.

    Raises:
        ValueError: on a value out of range.
    """

    batch_size: int = 64
    on_error: str = "skip"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={self.batch_size}")
        if self.on_error not in ON_ERROR:
            raise ValueError(f"`on_error` must be one of {', '.join(ON_ERROR)}. Received: {self.on_error!r}")


def extract_shard(
    reader: ImageReader,
    feature_model: FeatureModel,
    settings: Settings,
    number: int,
    options: ExtractOptions,
    on_batch: Callable[[int], None] = lambda count: None,
    offset: int = 0,
) -> Shard:
    """The features of the images of shard `number`.

    Args:
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

    def batches() -> Iterator[tuple[tuple[np.ndarray, dict[int, str]], np.ndarray]]:
        for batch_index, images, bad in reader.batches(rows, options.batch_size):
            if bad and options.on_error == "raise":
                row, reason = next(iter(bad.items()))
                raise BadImageError(f"{source.describe(row)}: {reason}")
            yield (batch_index, bad), images

    for (batch_index, bad), found in feature_model.in_order(batches(), list(features)):
        for name, values in found.items():
            features[name][len(index) : len(index) + len(values)] = _cast(values, settings.dtype, name)
        index = np.concatenate([index, batch_index])
        skipped += [Skipped(row + offset, image_name(source, row), reason) for row, reason in bad.items()]
        on_batch(len(batch_index) + len(bad))
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
    options: ExtractOptions = ExtractOptions(),
) -> list[Skipped]:
    """Write the features of all images; continue where an earlier call was interrupted.

    Args:
        feature_model: the model.
        source: the images.
        settings: `settings.describe_extraction` of both.
        storage: the folder; ends with `settings.json`, a shard for each `shard_size` images, and
            `manifest.json`, written last. Whoever calls holds its lock.
        options: size of a batch, and what a bad image does.

    Returns:
        The skipped images, those of earlier calls too.

    Raises:
        ExtractionError: if the folder holds something else, or features of other settings.
        BadImageError: on a bad image with `"raise"`, or if none is good.
        ExtractionStopped: on SIGTERM or Ctrl-C, after the batch in work; the shard in work is not kept.
        OSError: where reading or writing fails.
    """
    shard_format(settings.format)  # refused before the work rather than after the first shard
    claim(storage, settings)
    pending = pending_shards(storage, settings, options.on_error)
    left = sum(len(settings.rows(number)) for number in pending)
    progress = progress_bar(
        "Extracting",
        settings.num_images,
        done=settings.num_images - left,
        smoothing=0.05,
        disable=not pending,
    )
    reader = ImageReader(source, feature_model.info.preprocessing, settings.max_pixels)
    with StopSignals() as signals, progress as bar:
        named = 0
        for done, number in enumerate(pending, start=settings.num_shards - len(pending)):

            def on_batch(images: int, done: int = done) -> None:
                bar.update(images)
                if signals.received is not None:
                    raise ExtractionStopped(
                        signals.received, f"{done} of {settings.num_shards} shards are written"
                    )

            shard = extract_shard(reader, feature_model, settings, number, options, on_batch)
            write_shard(storage, settings, number, shard)
            for image in shard.skipped[: NAMED - named]:
                bar.write(f"skipped {image.path}: {image.reason}", file=sys.stderr)
                named += 1
    return write_manifest(storage, settings, source.left_out)


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
    # Filled shard by shard: all of these and then one array of all would be held twice.
    features = {
        name: np.empty((settings.num_images, *settings.outputs[name]), settings.dtype) for name in outputs
    }
    indices, labels = [], []
    paths: list[str] = []
    for number in range(settings.num_shards):
        shard = read_shard(storage, settings, number, outputs)
        for name in outputs:
            features[name][len(paths) : len(paths) + len(shard.index)] = shard.features[name]
        paths += shard.paths
        indices.append(shard.index)
        if shard.labels is not None:
            labels.append(shard.labels)
    return (
        {name: values[: len(paths)] for name, values in features.items()},
        np.concatenate(indices),
        paths,
        np.concatenate(labels) if settings.labelled else None,
    )


def _settings(storage: LocalStorage) -> Settings:
    where = f"{storage.location}/{MANIFEST_FILE}"
    try:
        fields = parse_json(storage.read(MANIFEST_FILE))["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExtractionError(f"{where}: not written by `rfd extract` ({error})") from error
    return Settings.from_dict(fields, where)
