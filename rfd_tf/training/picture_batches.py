import abc
import dataclasses

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.training.probe_inputs import ProbeInputs
from rfd_tf.training.sources import (
    Pictures,
    check_same_on_all_workers,
    name_bad_image,
    validation_share,
)


class PictureBatches(ProbeInputs):
    """Decoded pictures: augmented for training, as the model wants them for testing.

    Subclasses say what becomes of a batch, and set `test_labels`.

    Args:
        training: pictures to learn from, with the augmentation as their preprocessing; `valid` are used.
        test: pictures to measure on.
        sampling, rotate_locally: of the training pictures, as of `data.training_dataset`.

    Attributes:
        with_labels: whether the training pictures come with their labels.
    """

    with_labels: bool

    def __init__(
        self,
        training: Pictures,
        test: Pictures,
        sampling: np.ndarray | None = None,
        rotate_locally: str = "",
    ):
        self.training = training
        self.test = test
        self.sampling = sampling
        self.rotate_locally = rotate_locally
        self.num_examples = len(training.valid)  # pictures, as `batch_size` counts them

    @abc.abstractmethod
    def _examples(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Batches of (dict of inputs, labels), from what `data` gives for training or evaluation."""

    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        def make(num_workers, worker_index, replicas_per_worker):
            dataset = data.training_dataset(
                self.training.source,
                dataclasses.replace(self.training.preprocessing, crops=1),  # a second is of no use here
                batch_size=config.batch_size,
                seed=config.seed,
                epochs=epochs,
                start_step=start_step,
                with_labels=self.with_labels,
                valid_indices=self.training.valid,
                sampling_weights=self.sampling,
                rotate_locally=self.rotate_locally,
                num_workers=num_workers,
                worker_index=worker_index,
                replicas_per_worker=replicas_per_worker,
            )
            return self._examples(dataset)

        return distribution.distribute_dataset(strategy, make)

    def validation_batches(self, config: ConfigDict, strategy):
        def make(*place):
            indices, batch_size = validation_share(self.test.valid, config.batch_size, *place)
            return self._evaluated(indices, batch_size)

        return distribution.distribute_dataset(strategy, make)

    def test_batches(self, config: ConfigDict) -> tf.data.Dataset:
        return self._evaluated(self.test.valid, config.batch_size)

    def _evaluated(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        dataset = data.evaluation_dataset(self.test.source, self.test.preprocessing, batch_size, indices)
        return self._examples(dataset)

    def check(self, strategy) -> None:
        check_same_on_all_workers(self.training, strategy)

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:
        name_bad_image(config, self.training, self.test, step, error, self.sampling)
