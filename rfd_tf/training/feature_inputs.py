from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import distribution
from rfd_tf.data.schedule import Schedule
from rfd_tf.training.probe_inputs import ProbeInputs
from rfd_tf.training.sources import validation_share

_PREFETCHED_BATCHES = 4


class FeatureInputs(ProbeInputs):
    """Features that were computed once: arrays in memory, or mapped from files, of which a batch is read.

    The order of the examples is that of pictures: a function of (seed, epoch, row).

    Args:
        training: feature name -> float array [N, ...].
        training_labels: [N].
        test: feature name -> float array [M, ...].
        test_labels: [M].
    """

    def __init__(
        self,
        training: Mapping[str, np.ndarray],
        training_labels: np.ndarray,
        test: Mapping[str, np.ndarray],
        test_labels: np.ndarray,
    ):
        self.training = training
        self.test = test
        self.training_labels = np.asarray(training_labels, dtype="int64")
        self.test_labels = np.asarray(test_labels, dtype="int64")
        self.num_examples = len(self.training_labels)

    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        def make(num_workers, worker_index, replicas_per_worker):
            rows = np.arange(self.num_examples)
            schedule = Schedule(
                rows,
                config.seed,
                config.batch_size,
                epochs,
                start_step,
                num_workers,
                worker_index,
                replicas_per_worker,
            )
            dataset = tf.data.Dataset.range(*schedule.positions())
            dataset = dataset.map(
                lambda position: schedule.epoch_and_index(position)[1],
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            dataset = dataset.batch(schedule.replica_batch, drop_remainder=True)
            return _reading(dataset, self.training, self.training_labels)

        return distribution.distribute_dataset(strategy, make)

    def validation_batches(self, config: ConfigDict, strategy):
        def make(*place):
            rows, batch_size = validation_share(np.arange(len(self.test_labels)), config.batch_size, *place)
            dataset = tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)
            return _reading(dataset, self.test, self.test_labels)

        return distribution.distribute_dataset(strategy, make)

    def test_batches(self, config: ConfigDict) -> tf.data.Dataset:
        dataset = tf.data.Dataset.range(len(self.test_labels)).batch(config.batch_size)
        return _reading(dataset, self.test, self.test_labels)


def _reading(rows: tf.data.Dataset, features: Mapping[str, np.ndarray], labels: np.ndarray):
    """Batches of rows as batches of (dict of features, labels)."""
    names = list(features)

    def fetch(chosen: np.ndarray) -> list[np.ndarray]:
        return [*(np.asarray(features[name][chosen], "float32") for name in names), labels[chosen]]

    def read(chosen: tf.Tensor):
        types = [*([tf.float32] * len(names)), tf.int64]
        *found, classes = tf.numpy_function(fetch, [chosen], types, stateful=False)
        for name, feature in zip(names, found, strict=True):
            feature.set_shape([chosen.shape[0], *features[name].shape[1:]])
        classes.set_shape([chosen.shape[0]])
        return dict(zip(names, found, strict=True)), classes

    dataset = rows.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(_PREFETCHED_BATCHES).with_options(options)
