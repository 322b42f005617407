import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import data
from rfd_tf.training.picture_batches import PictureBatches
from rfd_tf.training.sources import Pictures


class MultiLabelInputs(PictureBatches):
    """Pictures that show any number of classes: augmented for training, several crops each for testing.

    Args:
        training: those to learn from, with the augmentation as their preprocessing; of a source with
            `targets` [N, C], as of `MultiLabelLoss`.
        test: those to measure on; of such a source.
        crops: random crops of each test picture, cut as training pictures are; 0 for its centre alone.
    """

    with_labels = False

    def __init__(self, training: Pictures, test: Pictures, crops: int):
        super().__init__(training, test)
        if crops < 0:
            raise ValueError(f"The number of test crops must not be negative. Received: {crops}")
        self.crops = crops
        self.test_labels = test.source.targets[test.valid]

    def _examples(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        targets = data.host_constant(self.training.source.targets)
        return dataset.map(
            lambda features: ({"image": features["image"]}, tf.gather(targets, features["index"]))
        )

    def test_crops(self, config: ConfigDict) -> tf.data.Dataset:
        """One pass over the test pictures in order: images [b, K, S, S, 3]."""
        if self.crops:
            dataset = data.random_crops_dataset(
                self.test.source,
                self.training.preprocessing,
                max(1, config.batch_size // self.crops),
                self.crops,
                config.seed,
                self.test.valid,
            )
            return dataset.map(lambda features: features["image"])
        dataset = data.evaluation_dataset(
            self.test.source, self.test.preprocessing, config.batch_size, self.test.valid
        )
        return dataset.map(lambda features: features["image"][:, None])
