"""Batches for training and evaluation.

Everything random is a function of (seed, epoch, instance index): which picture comes when, how it is
augmented, which negatives are drawn. A run resumed at any step, or spread over workers and replicas, sees
what one uninterrupted device would have seen.
"""

import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import uniform
from rfd_tf.data.localized_rotation import check_localized_rotation, localized_rotation
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.data.schedule import AUGMENTATION, LOCALIZED_ROTATION, NEGATIVES, SECOND_CROP, Schedule, stream
from rfd_tf.data.source import Source, host_constant
from rfd_tf.data.subset import checked_rows

PREFETCHED_BATCHES = 4
RAM_BUDGET = 4 * 2**30  # bytes that tf.data's own tuning may fill with buffers


def training_dataset(
    source: Source,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start_step: int = 0,
    num_negatives: int = 0,
    with_labels: bool = False,
    valid_indices: np.ndarray | None = None,
    sampling_weights: np.ndarray | None = None,
    rotate_locally: str = "",
    num_workers: int = 1,
    worker_index: int = 0,
    replicas_per_worker: int = 1,
    parallel_calls: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """Shuffled, augmented batches from `start_step` to the end of the last epoch.

    Step s is the s-th global batch, counted from 0 over all epochs. Each worker gets its rows of every global
    batch, each replica its rows of the worker's, in turn: the batches of all replicas of all workers, put
    together in order, are the one-device batch.

    Args:
        source: the pictures, N of them.
        preprocessing: how a picture becomes an input of side S; with `crops=2`, two of them.
        batch_size: pictures in a global batch.
        seed: any integer in [-2**63, 2**63).
        epochs: passes over the pictures.
        start_step: first global step to give; the steps before it cost nothing.
        num_negatives: K instance indices to draw for each picture, uniformly from all N; 0 for none.
        with_labels: whether to give labels too.
        valid_indices: int64; the pictures to use, all by default. Their indices stay the source's.
        sampling_weights: [M] for the M pictures to use, not negative: an epoch then is M draws with
            replacement, each picture with a probability proportional to its weight. By default every
            picture comes once.
        rotate_locally: "explicit" or "implicit": turn a patch of each picture, as of `localized_rotation`.
        num_workers: processes that share each global batch.
        worker_index: which of them this is.
        replicas_per_worker: devices that share the worker's rows.
        parallel_calls: pictures prepared at once.

    Returns:
        A dataset of `{"image": float32 [b, S, S, 3], "index": int64 [b]}`, with `"negatives"` int32 [b, K]
        if any and `"localized_rotation"` int32 [b] if asked for, or of (that, labels int64 [b]); b is
        batch_size / num_workers / replicas_per_worker. With two crops also `"second_image"`, like `"image"`:
        another crop of the same image, augmented independently. The first is what one crop gives.

    Raises:
        ValueError: on a batch that cannot be shared equally, a source smaller than the batch, labels that the
            source does not have, or a number out of range.
    """
    if num_negatives < 0:
        raise ValueError(f"`num_negatives` must not be negative. Received: num_negatives={num_negatives}")
    if rotate_locally:
        check_localized_rotation(rotate_locally, preprocessing.image_size)
    valid = _rows(source, valid_indices)
    schedule = Schedule(
        valid,
        seed,
        batch_size,
        epochs,
        start_step,
        num_workers,
        worker_index,
        replicas_per_worker,
        sampling_weights,
    )
    labels = _labels(source) if with_labels else None

    def example(position: tf.Tensor):
        epoch, index = schedule.epoch_and_index(position)
        image_seed = stream(seed, AUGMENTATION, epoch, index)
        fetched = source.fetch(index)
        features = {"image": preprocessing.train_image(fetched, image_seed), "index": index}
        if preprocessing.crops == 2:
            second_seed = stream(seed, SECOND_CROP, epoch, index)
            features["second_image"] = preprocessing.train_image(fetched, second_seed)
        if rotate_locally:
            patch_seed = stream(seed, LOCALIZED_ROTATION, epoch, index)
            rotated = localized_rotation(features["image"], rotate_locally, patch_seed)
            features["image"], features["localized_rotation"] = rotated
        if num_negatives:
            negatives_seed = stream(seed, NEGATIVES, epoch, index)
            features["negatives"] = uniform([num_negatives], negatives_seed, 0, len(source), tf.int32)
        return features if labels is None else (features, tf.gather(labels, index))

    dataset = tf.data.Dataset.range(*schedule.positions())
    dataset = dataset.map(example, num_parallel_calls=parallel_calls, deterministic=True)
    dataset = dataset.batch(schedule.replica_batch, drop_remainder=True)
    return finished(dataset, replicas_per_worker)


def evaluation_dataset(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    indices: np.ndarray | None = None,
    parallel_calls: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """One pass in order, without chance; the last batch may be smaller.

    Args:
        source: the pictures.
        preprocessing: its `eval_image` is used.
        batch_size: pictures in a batch.
        indices: int64; the pictures to use, in order; all by default.
        parallel_calls: pictures prepared at once.

    Returns:
        A dataset of `{"image": float32 [b, S, S, 3], "index": int64 [b]}`, or of (that, labels int64 [b])
        where the source has labels.

    Raises:
        ValueError: if `batch_size` is not positive, or `indices` are empty or out of range.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
    rows = host_constant(_rows(source, indices))
    labels = None if source.labels is None else _labels(source)

    def example(index: tf.Tensor):
        features = {"image": preprocessing.eval_image(source.fetch(index)), "index": index}
        return features if labels is None else (features, tf.gather(labels, index))

    dataset = tf.data.Dataset.from_tensor_slices(rows)
    dataset = dataset.map(example, num_parallel_calls=parallel_calls, deterministic=True)
    return finished(dataset.batch(batch_size))


def _rows(source: Source, indices: np.ndarray | None) -> np.ndarray:
    return np.arange(len(source)) if indices is None else checked_rows(indices, len(source))


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
