"""A feature model made of NumPy alone."""

import numpy as np

from rfd_tf.data import Preprocessing
from rfd_tf.features import FeatureModel, ModelInfo

PREPROCESSING = Preprocessing(8, train="resize")


class NumpyFeatureModel(FeatureModel):
    """`features` [3]: mean colour times `factor`; `map` [8, 8, 3]: the image. Counts the images that it saw.

    `before_batch` is called with the number of the batch.
    """

    def __init__(self, factor: float = 1.0, before_batch=lambda _batch: None):
        outputs = {"features": (3,), "map": (8, 8, 3)}
        super().__init__(ModelInfo("numpy", PREPROCESSING, outputs), f"numpy://{factor}")
        self.factor, self.before_batch = factor, before_batch
        self.images = self.batches = 0

    def _extract(self, images, names):
        self.before_batch(self.batches)
        self.batches += 1
        self.images += len(images)
        return {"features": images.mean(axis=(1, 2)) * self.factor, "map": images}


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype="uint8")
