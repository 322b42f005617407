from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf.extractors import FeatureExtractor
from rfd_tf.training.picture_batches import PictureBatches
from rfd_tf.training.sources import Pictures


class PictureInputs(PictureBatches):
    """Labelled pictures, or their features by a model outside the one that is trained.

    Args:
        training: labelled, with the augmentation as its preprocessing.
        test: labelled.
        extractor: None to give the pictures themselves, for a network within the trained model; else the
            model, in any form, that turns each batch into features on the way.
        names: the features that it shall give.
        sampling, rotate_locally: of the training pictures, as of `data.training_dataset`.
    """

    with_labels = True

    def __init__(
        self,
        training: Pictures,
        test: Pictures,
        extractor: FeatureExtractor | None = None,
        names: Sequence[str] = (),
        sampling: np.ndarray | None = None,
        rotate_locally: str = "",
    ):
        super().__init__(training, test, sampling, rotate_locally)
        self.extractor = extractor
        self.names = tuple(names)
        self.test_labels = test.source.labels[test.valid]
        self._failure: Exception | None = None

    def _examples(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
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

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:
        if self._failure is not None:
            raise self._failure from error
        super().name_bad_image(config, step, error)
