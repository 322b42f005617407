"""Several random crops of each test picture, over which scores are averaged."""

import numpy as np
import tensorflow as tf

from rfd_tf.data.pipeline import finished
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.data.schedule import TEST_CROPS, stream
from rfd_tf.data.source import Source, host_constant
from rfd_tf.data.subset import checked_rows


def random_crops_dataset(
    source: Source,
    preprocessing: Preprocessing,
    batch_size: int,
    crops: int,
    seed: int,
    indices: np.ndarray | None = None,
) -> tf.data.Dataset:
    """One pass in order; of each picture `crops` augmented views, functions of (seed, picture, number).

    Args:
        source: the pictures.
        preprocessing: its `train_image` is used, mirroring included.
        batch_size: pictures in a batch; the last may be smaller.
        crops: K, of each picture.
        seed: any integer in [-2**63, 2**63).
        indices: int64; the pictures to use, in order; all by default.

    Returns:
        A dataset of `{"image": float32 [b, K, S, S, 3], "index": int64 [b]}`.

    Raises:
        ValueError: if `batch_size` or `crops` is not positive, or `indices` are empty or out of range.
    """
    if batch_size < 1 or crops < 1:
        raise ValueError(f"`batch_size` and `crops` must be at least 1. Received: {batch_size}, {crops}")
    rows = np.arange(len(source)) if indices is None else checked_rows(indices, len(source))

    def example(index: tf.Tensor):
        fetched = source.fetch(index)
        seeds = [stream(seed, TEST_CROPS, tf.constant(k, tf.int64), index) for k in range(crops)]
        views = [preprocessing.train_image(fetched, view_seed) for view_seed in seeds]
        return {"image": tf.stack(views), "index": index}

    dataset = tf.data.Dataset.from_tensor_slices(host_constant(rows))
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return finished(dataset.batch(batch_size))
