"""Batches for training and evaluation.

Everything random is a function of (seed, epoch, instance index): which picture comes when, how it is
augmented, which negatives are drawn. No state is carried along, so that a run resumed at any step, or spread
over workers and replicas, sees what one uninterrupted device would have seen.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import uniform
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.data.source import Source, host_constant
from rfd_tf.data.subset import checked_rows

ORDER, AUGMENTATION, NEGATIVES = range(3)  # independent random streams
PREFETCHED_BATCHES = 4
RAM_BUDGET = 4 * 2**30  # bytes that tf.data's own tuning may fill with buffers


def steps_per_epoch(num_valid: int, batch_size: int) -> int:
    """Global batches in an epoch; the remainder of each epoch's order, a different one each time, is dropped.

    Raises:
        ValueError: if `batch_size` is not positive or exceeds `num_valid`.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
    if num_valid < batch_size:
        raise ValueError(
            f"The source has {num_valid} usable pictures, fewer than one batch. Lower `batch_size`. "
            f"Received: batch_size={batch_size}"
        )
    return num_valid // batch_size


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
        preprocessing: how a picture becomes an input of side S.
        batch_size: pictures in a global batch.
        seed: any integer in [-2**63, 2**63).
        epochs: passes over the pictures.
        start_step: first global step to give; the steps before it cost nothing.
        num_negatives: K instance indices to draw for each picture, uniformly from all N; 0 for none.
        with_labels: whether to give labels too.
        valid_indices: int64; the pictures to use, all by default. Their indices stay the source's.
        num_workers: processes that share each global batch.
        worker_index: which of them this is.
        replicas_per_worker: devices that share the worker's rows.
        parallel_calls: pictures prepared at once.

    Returns:
        A dataset of `{"image": float32 [b, S, S, 3], "index": int64 [b]}`, with `"negatives"` int32 [b, K]
        if any, or of (that, labels int64 [b]); b is batch_size / num_workers / replicas_per_worker.

    Raises:
        ValueError: on a batch that cannot be shared equally, a source smaller than the batch, labels that the
            source does not have, or a number out of range.
    """
    valid = np.arange(len(source)) if valid_indices is None else checked_rows(valid_indices, len(source))
    plan = _Plan(len(valid), batch_size, epochs, start_step, num_workers, worker_index, replicas_per_worker)
    if num_negatives < 0:
        raise ValueError(f"`num_negatives` must not be negative. Received: num_negatives={num_negatives}")
    labels = _labels(source) if with_labels else None
    valid = host_constant(valid)

    def example(position: tf.Tensor):
        epoch, index = _scheduled(plan, seed, valid, position)
        image_seed = _stream(seed, AUGMENTATION, epoch, index)
        features = {"image": preprocessing.train_image(source.fetch(index), image_seed), "index": index}
        if num_negatives:
            negatives_seed = _stream(seed, NEGATIVES, epoch, index)
            features["negatives"] = uniform([num_negatives], negatives_seed, 0, len(source), tf.int32)
        return features if labels is None else (features, tf.gather(labels, index))

    dataset = tf.data.Dataset.range(*plan.positions())
    dataset = dataset.map(example, num_parallel_calls=parallel_calls, deterministic=True)
    dataset = dataset.batch(plan.replica_batch, drop_remainder=True)
    return _finished(dataset, PREFETCHED_BATCHES * replicas_per_worker)


def training_indices(
    num_images: int,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    valid_indices: np.ndarray | None = None,
) -> np.ndarray:
    """The pictures of global steps [start_step, start_step + num_steps), int64 [num_steps, batch_size].

    The arguments are those of `training_dataset`. No picture is read: it serves to find the one that
    stopped a run (see `first_bad_image`), and to check an order.
    """
    valid = np.arange(num_images) if valid_indices is None else checked_rows(valid_indices, num_images)
    epochs = (start_step + num_steps) // steps_per_epoch(len(valid), batch_size) + 1
    plan = _Plan(len(valid), batch_size, epochs, start_step, 1, 0, 1)
    dataset = tf.data.Dataset.range(*plan.positions()).take(num_steps * batch_size)
    dataset = dataset.map(lambda position: _scheduled(plan, seed, host_constant(valid), position)[1])
    return next(dataset.batch(num_steps * batch_size).as_numpy_iterator()).reshape(num_steps, batch_size)


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
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
    rows = host_constant(np.arange(len(source)) if indices is None else checked_rows(indices, len(source)))
    labels = None if source.labels is None else _labels(source)

    def example(position: tf.Tensor):
        index = tf.gather(rows, position)
        features = {"image": preprocessing.eval_image(source.fetch(index)), "index": index}
        return features if labels is None else (features, tf.gather(labels, index))

    dataset = tf.data.Dataset.range(len(rows))
    dataset = dataset.map(example, num_parallel_calls=parallel_calls, deterministic=True)
    return _finished(dataset.batch(batch_size), PREFETCHED_BATCHES)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Which places of which epoch's order this worker prepares, counted by its own positions 0, 1, ..."""

    num_valid: int
    batch_size: int
    epochs: int
    start_step: int
    num_workers: int
    worker_index: int
    replicas_per_worker: int

    def __post_init__(self):
        if self.num_workers < 1 or self.replicas_per_worker < 1 or self.epochs < 1:
            raise ValueError(f"Workers, replicas and epochs must be at least 1. Received: {self}")
        if not 0 <= self.worker_index < self.num_workers:
            raise ValueError(f"`worker_index` must be in [0, num_workers). Received: {self}")
        if self.batch_size % (self.num_workers * self.replicas_per_worker):
            raise ValueError(
                f"batch_size={self.batch_size} cannot be shared equally by {self.num_workers} worker(s) with "
                f"{self.replicas_per_worker} replica(s) each: take a multiple of "
                f"{self.num_workers * self.replicas_per_worker}"
            )
        if not 0 <= self.start_step <= self.epochs * self.steps:
            raise ValueError(
                f"`start_step` must be in [0, {self.epochs * self.steps}]: {self.epochs} epochs of "
                f"{self.steps} steps. Received: start_step={self.start_step}"
            )

    @property
    def steps(self) -> int:
        return steps_per_epoch(self.num_valid, self.batch_size)

    @property
    def worker_batch(self) -> int:
        return self.batch_size // self.num_workers

    @property
    def replica_batch(self) -> int:
        return self.worker_batch // self.replicas_per_worker

    def positions(self) -> tuple[int, int]:
        return self.start_step * self.worker_batch, self.epochs * self.steps * self.worker_batch

    def epoch_and_place(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        step, row = position // self.worker_batch, position % self.worker_batch
        place = (step % self.steps) * self.batch_size + self.worker_index * self.worker_batch + row
        return step // self.steps, place


def _scheduled(plan: _Plan, seed: int, valid: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(epoch, instance index) at a worker's position; int64 scalars."""
    epoch, place = plan.epoch_and_place(position)
    return epoch, tf.gather(valid, _shuffled(place, plan.num_valid, _stream(seed, ORDER, epoch)))


def _stream(seed: int, *key: int | tf.Tensor) -> tf.Tensor:
    """A stateless seed, int64 [2], that depends on `seed` and on every part of `key`."""
    stream = tf.constant([seed, 0], tf.int64)
    for part in key:
        stream = tf.stack([stream[0], stream[1] ^ tf.cast(part, tf.int64)])
        stream = tf.random.stateless_uniform([2], stream, None, None, tf.int64, alg="philox")
    return stream


def _shuffled(place: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    """The picture at `place` of a permutation of `count` that is never held in memory; int64.

    Eight rounds with hashed seeds: four rounds, or the bare (seed, epoch) as the key, give permutations in
    which chi-square tests find the same pictures at the same places too often.
    """
    key = tf.concat([seed, seed[:1] ^ seed[1:]], 0)
    return tf.raw_ops.RandomIndexShuffle(
        index=place, seed=key, max_index=tf.constant(count - 1, tf.int64), rounds=8
    )


def _labels(source: Source) -> tf.Tensor:
    if source.labels is None:
        raise ValueError(f"Labels were asked for, and {source.name} has none")
    return host_constant(source.labels)


def _finished(dataset: tf.data.Dataset, prefetched: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = RAM_BUDGET
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(prefetched).with_options(options)
