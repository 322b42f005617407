from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.extractors import FeatureExtractor
from rfd_tf.training.probe_inputs import ProbeInputs
from rfd_tf.training.sources import (
    Pictures,
    check_same_on_all_workers,
    name_bad_image,
    validation_share,
)


class PictureInputs(ProbeInputs):
    """Decoded pictures: augmented for training, as the model wants them for testing.

    Args:
        training: labelled, with the augmentation as its preprocessing.
        test: labelled.
        extractor: None to give the pictures themselves, for a network within the trained model; else the
            model, in any form, that turns each batch into features on the way.
        names: the features that it shall give.
        sampling: weights of the training pictures, as of `data.training_dataset`.
    """

    def __init__(
        self,
        training: Pictures,
        test: Pictures,
        extractor: FeatureExtractor | None = None,
        names: Sequence[str] = (),
        sampling: np.ndarray | None = None,
    ):
        self.training = training
        self.test = test
        self.extractor = extractor
        self.names = tuple(names)
        self.sampling = sampling
        self.num_examples = len(training.valid)
        self.test_labels = test.source.labels[test.valid]
        self._failure: Exception | None = None

    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        def make(num_workers, worker_index, replicas_per_worker):
            dataset = data.training_dataset(
                self.training.source,
                self.training.preprocessing,
                batch_size=config.batch_size,
                seed=config.seed,
                epochs=epochs,
                start_step=start_step,
                with_labels=True,
                valid_indices=self.training.valid,
                sampling_weights=self.sampling,
                num_workers=num_workers,
                worker_index=worker_index,
                replicas_per_worker=replicas_per_worker,
            )
            return self._with_features(dataset)

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
        return self._with_features(dataset)

    def _with_features(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        if self.extractor is None:
            return dataset

        def extract(inputs, labels):
            types = [tf.float32] * len(self.names)
            found = tf.numpy_function(self._extract, [inputs["image"]], types, stateful=False)
            for name, feature in zip(self.names, found, strict=True):
                feature.set_shape([inputs["image"].shape[0], *self.extractor.info.outputs[name]])
            return dict(zip(self.names, found, strict=True)), labels

        # One at a time: what computes features uses the whole machine, or a server.
        return dataset.map(extract, num_parallel_calls=1, deterministic=True).prefetch(2)

    def _extract(self, images: np.ndarray) -> list[np.ndarray]:
        try:
            return list(self.extractor(images, self.names).values())
        except Exception as failure:
            self._failure = failure  # TensorFlow passes on no more than its text
            raise

    def check(self, strategy) -> None:
        check_same_on_all_workers(self.training, strategy)

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:
        if self._failure is not None:
            raise self._failure from error
        name_bad_image(config, self.training, self.test, step, error, self.sampling)
