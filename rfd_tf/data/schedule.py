"""Which image a training run sees when, and the seeds of everything drawn for it.

All of it is computed from (seed, epoch, place), with no state carried along: a run that resumes at any step,
or is spread over workers, finds the same.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from rfd_tf.data.source import checked_rows, host_constant
from rfd_tf.distribution import Share

# Independent random streams.
ORDER, AUGMENTATION, NEGATIVES, SAMPLING, LOCALIZED_ROTATION, TEST_CROPS, SECOND_CROP, MIXING = range(8)


def steps_per_epoch(num_valid: int, batch_size: int) -> int:
    """Global batches in an epoch; the remainder of each epoch's order, a different one each time, is dropped.

    Raises:
        ValueError: if `batch_size` is not positive or exceeds `num_valid`.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
    if num_valid < batch_size:
        raise ValueError(
            f"The source has {num_valid} usable images, fewer than one batch. Lower `batch_size`. "
            f"Received: batch_size={batch_size}"
        )
    return num_valid // batch_size


def training_indices(
    num_images: int,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    valid_indices: np.ndarray | None = None,
    sampling_weights: np.ndarray | None = None,
) -> np.ndarray:
    """The images of global steps [start_step, start_step + num_steps), int64 [num_steps, batch_size].

    The arguments are those of `training_dataset`. No image is read: it serves to find the one that
    stopped a run (see `first_bad_image`), and to check an order.
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1. Received: num_steps={num_steps}")
    valid = checked_rows(valid_indices, num_images)
    epochs = (start_step + num_steps) // steps_per_epoch(len(valid), batch_size) + 1
    schedule = Schedule(valid, seed, batch_size, epochs, start_step, sampling_weights=sampling_weights)
    dataset = tf.data.Dataset.range(*schedule.positions()).take(num_steps * batch_size)
    dataset = dataset.map(lambda position: schedule.epoch_and_index(position)[1])
    return next(dataset.batch(num_steps * batch_size).as_numpy_iterator()).reshape(num_steps, batch_size)


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """What one worker prepares, as a function of its own positions 0, 1, ...: its rows of every global batch.

    Attributes:
        valid: int64 [M], the images to use.
        seed: of the order.
        batch_size: images in a global batch, M at most; workers and replicas share it equally.
        epochs: passes over the images.
        start_step: first global step.
        share: of this worker; all by default.
        sampling_weights: [M], not negative, with a positive sum: images are drawn by them, with
            replacement, M an epoch; None: each comes once an epoch.

    Raises:
        ValueError: on a number out of range, or a batch that cannot be shared equally.
    """

    valid: np.ndarray
    seed: int
    batch_size: int
    epochs: int
    start_step: int = 0
    share: Share = Share()  # noqa: RUF009  it is frozen
    sampling_weights: np.ndarray | None = None

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"`epochs` must be at least 1. Received: epochs={self.epochs}")
        if self.batch_size % self.share.num_replicas:
            raise ValueError(
                f"`batch_size` must be a multiple of {self.share.num_replicas}, so that "
                f"{self.share.num_workers} worker(s) with {self.share.replicas_per_worker} replica(s) each "
                f"share it equally. Received: batch_size={self.batch_size}"
            )
        if not 0 <= self.start_step <= self.epochs * self.steps:
            raise ValueError(
                f"`start_step` must be in [0, {self.epochs * self.steps}]: {self.epochs} epochs of "
                f"{self.steps} steps. Received: start_step={self.start_step}"
            )
        if self.sampling_weights is not None:
            self._check_sampling_weights(np.asarray(self.sampling_weights))

    def _check_sampling_weights(self, weights: np.ndarray) -> None:
        if weights.shape != self.valid.shape:
            raise ValueError(
                f"`sampling_weights` must be one for each of the {len(self.valid)} images. "
                f"Received shape: {weights.shape}"
            )
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError("`sampling_weights` must be finite, not negative, and not all zero")

    @property
    def steps(self) -> int:
        """Global batches in an epoch."""
        return steps_per_epoch(len(self.valid), self.batch_size)

    @property
    def worker_batch(self) -> int:
        """Rows of a global batch that one worker prepares."""
        return self.batch_size // self.share.num_workers

    @property
    def replica_batch(self) -> int:
        """Rows of a global batch that one replica gets."""
        return self.worker_batch // self.share.replicas_per_worker

    def positions(self) -> tuple[int, int]:
        """The worker's positions: first, and one after the last."""
        return self.start_step * self.worker_batch, self.epochs * self.steps * self.worker_batch

    def epoch_and_index(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(epoch, instance index) at one of the worker's positions; int64 scalars, eagerly or in a graph."""
        step, row = position // self.worker_batch, position % self.worker_batch
        epoch = step // self.steps
        place = (step % self.steps) * self.batch_size + self.share.worker_index * self.worker_batch + row
        rank = self._drawn(epoch, place) if self.sampling_weights is not None else self._ranked(epoch, place)
        return epoch, tf.gather(host_constant(self.valid), rank)

    def _ranked(self, epoch: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        return shuffled(place, len(self.valid), stream(self.seed, ORDER, epoch))

    def _drawn(self, epoch: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        chance = tf.random.stateless_uniform([], stream(self.seed, SAMPLING, epoch, place), dtype=tf.float64)
        return tf.searchsorted(self._bounds, chance[None], side="right", out_type=tf.int64)[0]

    @functools.cached_property
    def _bounds(self) -> tf.Tensor:
        """Rank r is drawn at randoms in [bounds[r - 1], bounds[r])."""
        sums = np.cumsum(np.asarray(self.sampling_weights, "float64"))
        return host_constant(sums / sums[-1])


def stream(seed: int, kind: int, epoch: tf.Tensor, index: int | tf.Tensor = 0) -> tf.Tensor:
    """A stateless seed, int64 [2], that depends on every argument; `seed`, `epoch` and `index` are int64."""
    base = _hashed(tf.constant([seed, kind], tf.int64))
    return _hashed(base ^ tf.stack([tf.cast(epoch, tf.int64), tf.cast(index, tf.int64)]))


def _hashed(seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform([2], seed, None, None, tf.int64, alg="philox")


def shuffled(place: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    """What stands at `place` (int64) in a permutation of [0, count) that is never held in memory; int64.

    Eight rounds and hashed seeds: with four rounds, or with the bare (seed, epoch) as the key, chi-square
    tests see that the same things come to the same places too often.
    """
    key = tf.concat([seed, seed[:1] ^ seed[1:]], 0)
    return tf.raw_ops.RandomIndexShuffle(
        index=place, seed=key, max_index=tf.constant(count - 1, tf.int64), rounds=8
    )
