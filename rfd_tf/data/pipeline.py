"""Batches for training and evaluation.

Everything random is a function of (seed, epoch, instance index): which image comes when, how it is
augmented, which negatives are drawn; how a batch is mixed is one of (seed, global step). A run resumed at any
step, or spread over workers and replicas, sees what one uninterrupted device would have seen.
"""

import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import pick, uniform
from rfd_tf.data.keras_augmentation import mixing
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.data.schedule import (
    AUGMENTATION,
    LOCALIZED_ROTATION,
    MIXING,
    NEGATIVES,
    SECOND_CROP,
    TEST_CROPS,
    Schedule,
    stream,
)
from rfd_tf.data.source import Source, checked_rows, host_constant
from rfd_tf.rotations import NUM_ROTATIONS

PREFETCHED_BATCHES = 4
RAM_BUDGET = 4 * 2**30  # bytes that tf.data's own tuning may fill with buffers


def training_dataset(
    source: Source,
    preprocessing: Preprocessing,
    schedule: Schedule,
    *,
    num_negatives: int = 0,
    with_labels: bool = False,
    rotate_locally: str = "",
    normalized: bool = True,
) -> tf.data.Dataset:
    """Shuffled, augmented batches from the schedule's first step to the end of its last epoch.

    Step s is the s-th global batch, counted from 0 over all epochs. Each worker gets its rows of every global
    batch, each replica its rows of the worker's, in turn: the batches of all replicas of all workers, put
    together in order, are the one-device batch.

    Args:
        source: the images, N of them.
        preprocessing: how an image becomes an input of side S; with `crops=2`, two of them. Its `augment` may
            mix the images of a global batch with each other; that needs labels, and a single worker.
        schedule: which images come when. Its seed, any integer in [-2**63, 2**63), is that of everything
            random; steps before its `start_step` cost nothing.
        num_negatives: K instance indices to draw for each image, uniformly from all N; 0 for none.
        with_labels: whether to give labels too.
        rotate_locally: "explicit" or "implicit": turn a patch of each image, as of `localized_rotation`.
        normalized: False gives the pixels in uint8, a quarter as large, to be normalised on the device; those
            of mixed images in float32.

    Returns:
        A dataset of `{"image": float32 [b, S, S, 3], "index": int64 [b]}`, with `"negatives"` int32 [b, K]
        if any and `"localized_rotation"` int32 [b] if asked for, or of (that, labels int64 [b]); b is
        the share of one replica. Labels of mixed images are float32 [b, C], the shares of the classes.
        With two crops also `"second_image"`, like `"image"`: another crop of the same image, augmented
        independently. The first is what one crop gives.

    Raises:
        ValueError: on images that the source does not have, labels that it does not have, a number out of
            range, or images that cannot be mixed.
    """
    if num_negatives < 0:
        raise ValueError(f"`num_negatives` must not be negative. Received: num_negatives={num_negatives}")
    if rotate_locally:
        check_localized_rotation(rotate_locally, preprocessing.image_size)
    if preprocessing.mixed:
        _check_mixing(preprocessing, schedule, with_labels, rotate_locally)
    checked_rows(schedule.valid, len(source))
    seed = schedule.seed
    labels = _labels(source) if with_labels else None

    @tf.autograph.experimental.do_not_convert
    def example(position: tf.Tensor):
        epoch, index = schedule.epoch_and_index(position)
        image_seed = stream(seed, AUGMENTATION, epoch, index)
        fetched = source.fetch(index)
        features = {"image": preprocessing.train_pixels(fetched, image_seed), "index": index}
        if preprocessing.crops == 2:
            second_seed = stream(seed, SECOND_CROP, epoch, index)
            features["second_image"] = preprocessing.train_pixels(fetched, second_seed)
        if rotate_locally:
            patch_seed = stream(seed, LOCALIZED_ROTATION, epoch, index)
            rotated = localized_rotation(features["image"], rotate_locally, patch_seed)
            features["image"], features["localized_rotation"] = rotated
        if num_negatives:
            negatives_seed = stream(seed, NEGATIVES, epoch, index)
            features["negatives"] = uniform([num_negatives], negatives_seed, 0, len(source), tf.int32)
        return features if labels is None else (features, tf.gather(labels, index))

    @tf.autograph.experimental.do_not_convert
    def normalize(features, *label):
        # A whole batch at once, which until then is a quarter as large.
        images = {k: preprocessing.normalize(features[k]) for k in ("image", "second_image") if k in features}
        return (features | images, *label) if label else features | images

    dataset = tf.data.Dataset.range(*schedule.positions())
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if preprocessing.mixed:
        dataset = _mixed(dataset, preprocessing, schedule, source.num_classes)
    else:
        dataset = dataset.batch(schedule.replica_batch, drop_remainder=True)
    if normalized:
        dataset = dataset.map(normalize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return finished(dataset, schedule.share.replicas_per_worker)


def _check_mixing(preprocessing: Preprocessing, schedule: Schedule, with_labels: bool, rotated: str) -> None:
    named = f"Received: augment={preprocessing.augment}"
    if not with_labels:
        raise ValueError(f"`augment` mixes labels with the images, so that it needs them. {named}")
    if rotated or preprocessing.crops == 2:
        raise ValueError(f"`augment` mixes neither locally rotated images nor two crops of each. {named}")
    if schedule.share.num_workers > 1:
        raise ValueError(
            "`augment` mixes the images of a global batch, of which each worker has a part only: use one "
            f"worker, with any number of replicas. {named}, {schedule.share.num_workers} workers"
        )


def _mixed(
    examples: tf.data.Dataset,
    preprocessing: Preprocessing,
    schedule: Schedule,
    num_classes: int,
) -> tf.data.Dataset:
    """Global batches of examples, mixed, in as many parts as there are replicas."""
    mix = mixing(preprocessing.mixed, num_classes, preprocessing.mixup_alpha)

    @tf.autograph.experimental.do_not_convert
    def mix_batch(step: tf.Tensor, batch):
        features, labels = batch
        image = tf.cast(features["image"], tf.float32)
        image, labels = mix(image, labels, stream(schedule.seed, MIXING, step))
        return {**features, "image": image}, labels

    dataset = examples.batch(schedule.batch_size, drop_remainder=True).enumerate(schedule.start_step)
    dataset = dataset.map(mix_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if schedule.share.num_replicas > 1:
        dataset = dataset.rebatch(schedule.replica_batch, drop_remainder=True)
    return dataset


def evaluation_dataset(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    indices: np.ndarray | None = None,
) -> tf.data.Dataset:
    """One pass in order, without chance; the last batch may be smaller.

    Args:
        source: the images.
        preprocessing: its `eval_image` is used.
        batch_size: images in a batch.
        indices: int64; the images to use, in order; all by default.

    Returns:
        A dataset of `{"image": float32 [b, S, S, 3], "index": int64 [b]}`, or of (that, labels int64 [b])
        where the source has labels.

    Raises:
        ValueError: if `batch_size` is not positive, or `indices` are empty or out of range.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
    rows = host_constant(checked_rows(indices, len(source)))
    labels = None if source.labels is None else _labels(source)

    @tf.autograph.experimental.do_not_convert
    def example(index: tf.Tensor):
        features = {"image": preprocessing.eval_image(source.fetch(index)), "index": index}
        return features if labels is None else (features, tf.gather(labels, index))

    dataset = tf.data.Dataset.from_tensor_slices(rows)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return finished(dataset.batch(batch_size))


def _labels(source: Source) -> tf.Tensor:
    if source.labels is None:
        raise ValueError(f"Labels were asked for, and {source.name} has none")
    return host_constant(source.labels)


def finished(dataset: tf.data.Dataset, replicas_per_worker: int = 1) -> tf.data.Dataset:
    """Batches with what all of ours have: prefetched within bounds, in one order, never sharded."""
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = RAM_BUDGET
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(PREFETCHED_BATCHES * replicas_per_worker).with_options(options)


def random_crops_dataset(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    crops: int,
    seed: int,
    indices: np.ndarray | None = None,
) -> tf.data.Dataset:
    """One pass in order; of each image `crops` augmented views, functions of (seed, image, number).

    Args:
        source: the images.
        preprocessing: its `train_image` is used, mirroring included.
        batch_size: images in a batch; the last may be smaller.
        crops: K, of each image.
        seed: any integer in [-2**63, 2**63).
        indices: int64; the images to use, in order; all by default.

    Returns:
        A dataset of `{"image": float32 [b, K, S, S, 3], "index": int64 [b]}`.

    Raises:
        ValueError: if `batch_size` or `crops` is not positive, or `indices` are empty or out of range.
    """
    if batch_size < 1 or crops < 1:
        raise ValueError(f"`batch_size` and `crops` must be at least 1. Received: {batch_size}, {crops}")
    rows = host_constant(checked_rows(indices, len(source)))

    @tf.autograph.experimental.do_not_convert
    def example(index: tf.Tensor):
        fetched = source.fetch(index)
        seeds = [stream(seed, TEST_CROPS, tf.constant(k, tf.int64), index) for k in range(crops)]
        views = [preprocessing.train_image(fetched, view_seed) for view_seed in seeds]
        return {"image": tf.stack(views), "index": index}

    dataset = tf.data.Dataset.from_tensor_slices(rows)
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return finished(dataset.batch(batch_size))


# What there is to tell of each kind: the quadrant and its rotation, or the rotation of a patch anywhere.
LOCALIZED_ROTATIONS = {"explicit": 4 * NUM_ROTATIONS, "implicit": NUM_ROTATIONS}


def check_localized_rotation(kind: str, image_size: int) -> None:
    """Raise ValueError unless `kind` is one of `LOCALIZED_ROTATIONS` and fits images of that side."""
    if kind not in LOCALIZED_ROTATIONS:
        raise ValueError(
            f"A localized rotation must be one of {', '.join(LOCALIZED_ROTATIONS)}. Received: {kind!r}"
        )
    if image_size < 4 or (kind == "explicit" and image_size % 2):
        raise ValueError(
            "Images need a side of at least 4 pixels to have a patch rotated, an even one for a quadrant. "
            f"Received: image_size={image_size}"
        )


def localized_rotation(image: tf.Tensor, kind: str, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn one patch of `image` by 0, 90, 180 or 270 degrees counter-clockwise, all as likely.

    Args:
        image: [S, S, C], S known, at least 4, even for "explicit".
        kind: "explicit" turns a quadrant; "implicit" a square of side 2 to S / 2 anywhere.
        seed: stateless, [2].

    Returns:
        The image, and an int32 scalar: `4 * quadrant + quarter turns` in [0, 16), with the quadrants row by
        row, or the quarter turns in [0, 4).
    """
    size = image.shape[0]
    check_localized_rotation(kind, size)
    half = size // 2
    places, turned = tf.unstack(tf.reshape(uniform([4], seed), [2, 2]))
    turns = pick(tf.constant(NUM_ROTATIONS), turned[0])
    if kind == "explicit":
        quadrant = pick(tf.constant(4), places[0])
        top, left = quadrant // 2 * half, quadrant % 2 * half
        return rotate_patch(image, top, left, half, turns), NUM_ROTATIONS * quadrant + turns
    side = 2 + pick(tf.constant(half - 1), turned[1])
    top, left = tf.unstack(pick(tf.stack([size - side + 1] * 2), places))
    return rotate_patch(image, top, left, side, turns), turns


def rotate_patch(image: tf.Tensor, top, left, side, turns) -> tf.Tensor:
    """`image` [H, W, C] with the `side` x `side` pixels at (`top`, `left`) turned as by `np.rot90`."""
    height, width, _ = image.shape
    row, column = tf.meshgrid(tf.range(height) - top, tf.range(width) - left, indexing="ij")
    last = side - 1
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    # Where each pixel of the patch comes from, for each number of quarter turns.
    from_row = tf.stack([row, column, last - row, last - column])[turns]
    from_column = tf.stack([column, last - row, last - column, row])[turns]
    source = tf.stack([from_row + top, from_column + left], axis=-1)
    here = tf.stack([row + top, column + left], axis=-1)
    return tf.gather_nd(image, tf.where(inside[..., None], source, here))
