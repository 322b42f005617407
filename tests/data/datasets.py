import numpy as np
import tensorflow as tf

from rfd_tf import data
from rfd_tf.distribution import Share


def training_dataset(
    source,
    recipe,
    *,
    batch_size,
    seed,
    epochs,
    start_step=0,
    valid_indices=None,
    sampling_weights=None,
    **rest,
):
    """`data.training_dataset`, of all images and for one device unless said otherwise."""
    valid = np.arange(len(source)) if valid_indices is None else valid_indices
    names = ("num_workers", "worker_index", "replicas_per_worker")
    share = Share(**{name: rest.pop(name) for name in names if name in rest})
    schedule = data.Schedule(valid, seed, batch_size, epochs, start_step, share, sampling_weights)
    return data.training_dataset(source, recipe, schedule, **rest)


def on_one_thread(dataset):
    """The dataset, computed one image after the other."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    return dataset.with_options(options)
