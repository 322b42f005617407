"""Batches that a detector learns from."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import decode, pick, uniform
from rfd_tf.data.pipeline import finished
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.data.schedule import AUGMENTATION, Schedule, stream
from rfd_tf.data.voc import VocDevkit
from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection.regions import Regions, sample_regions
from rfd_tf.detection.scaling import scale_factor, scaled_boxes, scaled_picture

SCALES = (480, 576, 688, 864, 1200)  # of Fast R-CNN's multi-scale training
LONGEST = 2000
FILLS = -1  # label of a region that only fills the batch


def detection_batches(
    source: VocDevkit,
    regions: Sequence[Regions],
    preprocessing: Preprocessing,
    *,
    seed: int,
    epochs: int,
    start_step: int = 0,
    batch_size: int = 2,
    num_regions: int = 128,
    foreground_share: float = 0.25,
    scales: Sequence[int] = SCALES,
    longest: int = LONGEST,
    exif_orientation: bool = False,
    num_workers: int = 1,
    worker_index: int = 0,
    replicas_per_worker: int = 1,
) -> tf.data.Dataset:
    """Shuffled pictures, one half of them mirrored, each at a scale and with regions drawn for it.

    All that is drawn is a function of (seed, epoch, picture), as in `data.training_dataset`.

    Args:
        source: N pictures and their sizes.
        regions: of each picture.
        preprocessing: its mean and deviation are used.
        seed, epochs, start_step: as of `data.training_dataset`.
        num_workers, worker_index, replicas_per_worker: as well.
        batch_size: pictures in a global batch.
        num_regions: regions in a global batch, the same number for each picture.
        foreground_share: of the regions, at most.
        scales: short sides in pixels, one of which is drawn.
        longest: the long side's limit in pixels, which goes before.
        exif_orientation: whether boxes are in pictures that are turned as their EXIF says.

    Returns:
        A dataset of pairs of dicts for `models.FastRCNN`: `image` float32 [b, H, W, 3] and `regions` float32
        [b, R, 4]; `labels` int32 [b, R] and `deltas` float32 [b, R, 4]. Smaller pictures are filled up with 0
        below and on the right, missing regions with the whole picture, labelled -1.

    Raises:
        ValueError: on numbers out of range or another number of `regions` than pictures.
    """
    if len(regions) != len(source):
        raise ValueError(f"There are {len(source)} pictures, and regions of {len(regions)}")
    check_regions(batch_size, num_regions, foreground_share)
    check_scales(scales, longest)
    schedule = Schedule(
        np.arange(len(source)),
        seed,
        batch_size,
        epochs,
        start_step,
        num_workers,
        worker_index,
        replicas_per_worker,
    )
    per_picture = num_regions // batch_size

    def drawn(index, flip, scale, seed_pair):
        return _drawn(
            source,
            regions,
            int(index),
            bool(flip),
            float(scale),
            seed_pair,
            per_picture,
            foreground_share,
            longest,
        )

    def example(position: tf.Tensor):
        epoch, index = schedule.epoch_and_index(position)
        picture_seed = stream(seed, AUGMENTATION, epoch, index)
        first, second = tf.unstack(uniform([2], picture_seed))
        flip, scale = (
            first < 0.5,
            tf.gather(tf.constant(scales, tf.int32), pick(tf.constant(len(scales)), second)),
        )
        factor, found, labels, deltas = tf.numpy_function(
            drawn,
            [index, flip, scale, picture_seed],
            [tf.float32, tf.float32, tf.int32, tf.float32],
            stateful=False,
        )
        image = decode(source.fetch(index), exif_orientation)
        image = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
        image = scaled_picture(image, factor, preprocessing.mean, preprocessing.std)
        return (
            {
                "image": tf.ensure_shape(image, [None, None, 3]),
                "regions": tf.ensure_shape(found, [per_picture, 4]),
            },
            {
                "labels": tf.ensure_shape(labels, [per_picture]),
                "deltas": tf.ensure_shape(deltas, [per_picture, 4]),
            },
        )

    dataset = tf.data.Dataset.range(*schedule.positions())
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.padded_batch(schedule.replica_batch, drop_remainder=True)
    return finished(dataset, replicas_per_worker)


def _drawn(source, regions, index, flip, scale, seed_pair, count, foreground_share, longest):
    """The factor of a picture's sides; boxes, labels and deltas of `count` regions."""
    annotation, own = source.annotations[index], regions[index]
    factor = scale_factor(annotation.height, annotation.width, scale, longest)
    rng = np.random.default_rng([int(word) % 2**64 for word in seed_pair])
    rows, foreground = sample_regions(own.overlaps, count, rng, foreground_share)
    labels = np.full(count, FILLS, "int32")
    boxes = np.tile(np.float32([0, 0, annotation.width - 1, annotation.height - 1]), (count, 1))
    deltas = np.zeros((count, 4), "float32")
    drawn = len(rows)
    labels[:drawn] = np.where(foreground, own.labels[rows], 0)
    boxes[:drawn], deltas[:drawn] = own.boxes[rows], own.deltas[rows] * foreground[:, None]
    if flip:
        boxes = box_functions.mirror(boxes, annotation.width)
        deltas[:, 0] *= -1
    return np.float32(factor), scaled_boxes(boxes, factor), labels, deltas


def check_regions(batch_size: int, num_regions: int, foreground_share: float) -> None:
    """Raise ValueError where `detection_batches` would."""
    if num_regions < batch_size or num_regions % batch_size:
        raise ValueError(
            "`num_regions` must be a multiple of `batch_size`. "
            f"Received: num_regions={num_regions}, batch_size={batch_size}"
        )
    if not 0 <= foreground_share <= 1:
        raise ValueError(f"`foreground_share` must be in [0, 1]. Received: {foreground_share}")


def check_scales(scales: Sequence[int], longest: int) -> None:
    """Raise ValueError where `detection_batches` would."""
    if not scales or min(scales) < 1 or longest < 1:
        raise ValueError(f"Sides must be positive. Received: scales={tuple(scales)}, longest={longest}")
