import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.rotations import NUM_ROTATIONS, four_views, rotation_labels
from rfd_tf.training.probe_inputs import ProbeInputs
from rfd_tf.training.sources import Pictures, check_same_on_all_workers, name_bad_image, validation_share


class RotationInputs(ProbeInputs):
    """The four views of pictures, labelled by their rotations; a batch of b pictures is 4 b examples.

    Args:
        training: those to learn from; `valid` are the ones used.
        test: those to predict.
    """

    def __init__(self, training: Pictures, test: Pictures):
        self.training = training
        self.test = test
        self.num_examples = len(training.valid)  # pictures, as `batch_size` counts them
        self.test_labels = rotation_labels(len(test.valid)).astype("int64")

    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        def make(num_workers, worker_index, replicas_per_worker):
            return data.training_dataset(
                self.training.source,
                self.training.preprocessing,
                batch_size=config.batch_size,
                seed=config.seed,
                epochs=epochs,
                start_step=start_step,
                valid_indices=self.training.valid,
                num_workers=num_workers,
                worker_index=worker_index,
                replicas_per_worker=replicas_per_worker,
            ).map(_views)

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
        return dataset.map(_views)

    def check(self, strategy) -> None:
        check_same_on_all_workers(self.training, strategy)

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:
        name_bad_image(config, self.training, self.test, step, error)


def _views(features, *_label):
    images = features["image"]
    labels = tf.tile(tf.range(NUM_ROTATIONS), [tf.shape(images)[0]])
    return {"image": four_views(images)}, labels
