"""The images that a config names."""

import dataclasses
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.data.source import listing_digest
from rfd_tf.runs.workdir import CACHE_FOLDER

# What TensorFlow raises on an image that cannot be read or decoded, among other things.
IMAGE_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.DataLossError,
    tf.errors.UnknownError,
)
# An error may come before its turn: the pipeline works so many steps ahead, or fewer.
_PREFETCHED_STEPS = 16
# Where `method.num_negatives` is 0: the largest bank that is contrasted whole, and what is drawn of a larger.
MOST_WHOLE_BANK, DRAWN_NEGATIVES = 65_536, 4_096


@dataclasses.dataclass
class ImageSet:
    """A source with what a run knows about it.

    Attributes:
        source: N images.
        preprocessing: how they become inputs.
        valid: int64 indices of those that can be used.
        skipped: (path, reason) of the others.
    """

    source: data.Source
    preprocessing: data.Preprocessing
    valid: np.ndarray
    skipped: list[tuple[str, str]]

    @property
    def labels(self) -> np.ndarray:
        """int64, of the images at `valid`, in that order; ValueError where there are none."""
        if self.source.labels is None:
            raise ValueError(f"{self.source.name} has no labels")
        return self.source.labels[self.valid]

    @property
    def targets(self) -> np.ndarray:
        """int8 [N, C] of 1, -1 and 0 (does not count), of the images at `valid`; of VOC's sources."""
        return self.source.targets[self.valid]  # type: ignore[attr-defined]

    def name_bad_image(self, error: tf.errors.OpError, indices: np.ndarray) -> None:
        """Raise `BadImageError` from `error` where one of the images at `indices` cannot be read."""
        if bad := data.first_bad_image(self.source, np.unique(indices)):
            raise bad from error


def open_training_images(config: ConfigDict, workdir: Path) -> ImageSet:
    """The training images of a run."""
    cache = workdir / CACHE_FOLDER
    cache.mkdir(exist_ok=True)
    preprocessing = data.Preprocessing.of_config(config)
    return open_image_set(config.data, preprocessing, cache / "skipped_training.json")


def open_run_images(config: ConfigDict, workdir: Path) -> tuple[ImageSet, ImageSet | None]:
    """The training and, where there are any, the validation images of a run."""
    training = open_training_images(config, workdir)
    if not config.validation.source:
        return training, None
    cache_file = workdir / CACHE_FOLDER / "skipped_validation.json"
    return training, open_image_set(config.validation, training.preprocessing, cache_file)


def list_skipped(*all_images: ImageSet | None) -> None:
    """Log the images that were left out."""
    for images in filter(None, all_images):
        if images.skipped:
            listed = "\n".join(f"  {path}: {reason}" for path, reason in images.skipped)
            logging.warning(
                "%d corrupt images of %s were skipped:\n%s",
                len(images.skipped),
                images.source.name,
                listed,
            )


def name_bad_image(
    config: ConfigDict,
    training: ImageSet,
    validation: ImageSet | None,
    step: int,
    error: tf.errors.OpError,
    sampling_weights: np.ndarray | None = None,
) -> None:
    """Raise `BadImageError` for a failed decoding, if it came of an image.

    The culprit is looked for among the batches that follow `step`, then in the validation set.
    """
    upcoming = data.training_indices(
        len(training.source),
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=step,
        num_steps=_PREFETCHED_STEPS,
        valid_indices=training.valid,
        sampling_weights=sampling_weights,
    )
    training.name_bad_image(error, upcoming)
    if validation is not None:
        validation.name_bad_image(error, validation.valid)


def check_same_on_all_workers(images: ImageSet, strategy) -> None:
    """Raise ValueError where workers would train on different lists of images: their names, labels, order."""
    if not distribution.several_workers(strategy):
        return
    usable = zlib.crc32(np.ascontiguousarray(images.valid).data)
    names = zlib.crc32(listing_digest(images.source).encode())
    found = distribution.gather_over_workers(strategy, [len(images.source), len(images.valid), usable, names])
    if others := distribution.unlike_the_first(strategy, found):
        counts = ", ".join(f"worker {i}: {usable} of {n}" for i, (n, usable, *_) in enumerate(found))
        raise ValueError(
            f"Not the images of the first worker: {others} (usable ones of all: {counts}). Give all workers "
            "the same files, and delete their `cache` folders"
        )


def open_image_set(
    config: ConfigDict, preprocessing: data.Preprocessing, cache_file: Path, classes: tuple[str, ...] = ()
) -> ImageSet:
    """Open `config.source`, long-tail it if asked, and leave out corrupt images with `on_error="skip"`.

    Args:
        config: the `data` or `validation` of a config.
        preprocessing: how the images become inputs, but for `exif_orientation`, which the config says.
        cache_file: keeps which of them are corrupt.
        classes: of a source in VOC's format; by default those that the config names.
    """
    if config.on_error not in ("raise", "skip"):
        raise ValueError(f"`on_error` must be 'raise' or 'skip'. Received: {config.on_error!r}")
    options = {}
    if config.source == "tfds":
        options = {"cache_dir": cache_file.parent} | ({"name": config.name} if config.name else {})
    if config.source in ("image_folder", "flat_folder", "image_list", "places205", "prepared"):
        options["on_error"] = config.on_error
    if config.source in data.VOC_SOURCES:
        options = {name: config[name] for name in ("year", "classes", "boxes") if config.get(name)}
        options |= {"classes": classes} if classes else {}
    source = data.open_source(config.source, config.root, config.split or "train", **options)
    long_tail = config.get("long_tail")
    if long_tail and long_tail.profile:
        source = data.long_tailed(source, long_tail.ratio, long_tail.profile, long_tail.seed)
    preprocessing = dataclasses.replace(preprocessing, exif_orientation=config.exif_orientation)
    valid = np.arange(len(source))
    skipped: list[tuple[str, str]] = []
    if config.on_error == "skip":
        valid, skipped = data.valid_indices(source, cache_file)
    return ImageSet(source, preprocessing, valid, skipped)


def negatives_per_image(config: ConfigDict, num_instances: int) -> int:
    """K, the rows of the bank that are drawn for each image to contrast with; 0 for all of them.

    `method.num_negatives`, or, where that is 0, all rows of a bank of up to 65,536 images, and 4,096 of a
    larger one, whose logits would take the memory of the network's own activations, and of a sharded one.
    """
    method = config.method
    whole = num_instances <= MOST_WHOLE_BANK and method.bank != "sharded"
    return method.num_negatives if method.num_negatives or whole else DRAWN_NEGATIVES


def training_batches(images: ImageSet, config: ConfigDict, strategy, start_step: int, epochs: int):
    """Batches for `fit`: `image` in uint8, `index`, and as configured `negatives` and `second_image`.

    They go from `start_step` to the end of `epochs`.
    """
    num_negatives = negatives_per_image(config, len(images.source))

    def make(share: distribution.Share):
        schedule = data.Schedule(images.valid, config.seed, config.batch_size, epochs, start_step, share)
        return data.training_dataset(
            images.source, images.preprocessing, schedule, num_negatives=num_negatives, normalized=False
        )

    return distribution.distribute_dataset(strategy, make)


def validation_batches(images: ImageSet, config: ConfigDict, strategy, num_instances: int):
    """One pass over `images`, each with any negatives drawn by (seed, index) from the training instances.

    On several replicas the images beyond the last whole batch are left out, since a replica cannot go
    without any; on one all are used.
    """

    num_negatives = negatives_per_image(config, num_instances)

    def with_negatives(features, *_labels):
        if not num_negatives:
            return features

        def draw(index):
            seed = tf.stack([tf.constant(config.seed, tf.int64), index])
            return tf.random.stateless_uniform([num_negatives], seed, 0, num_instances, tf.int32)

        negatives = tf.map_fn(draw, features["index"], fn_output_signature=tf.int32)
        return {**features, "negatives": negatives}

    def make(share: distribution.Share):
        indices, batch = validation_share(images.valid, config.batch_size, share)
        dataset = data.evaluation_dataset(images.source, images.preprocessing, batch, indices)
        return dataset.map(with_negatives, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    return distribution.distribute_dataset(strategy, make)


def validation_share(
    indices: np.ndarray, batch_size: int, share: distribution.Share
) -> tuple[np.ndarray, int]:
    """(indices of the validation examples that a worker takes, examples in a batch of one replica).

    Raises:
        ValueError: where several replicas share less than a batch.
    """
    workers, replicas = share.num_workers, share.num_replicas
    if replicas > 1:
        if len(indices) < batch_size:
            raise ValueError(
                "On several replicas `validation` needs at least one whole batch: it has "
                f"{len(indices)} images, `batch_size` is {batch_size}"
            )
        whole = indices[: len(indices) // batch_size * batch_size]
        indices = whole.reshape(-1, workers, batch_size // workers)[:, share.worker_index].ravel()
    return indices, batch_size // replicas
