import tensorflow as tf

from rfd_tf.rotations import NUM_ROTATIONS, four_views, rotation_labels
from rfd_tf.training.picture_batches import PictureBatches
from rfd_tf.training.sources import Pictures


class RotationInputs(PictureBatches):
    """The four views of pictures, labelled by their rotations; a batch of b pictures is 4 b examples.

    Args:
        training: those to learn from.
        test: those to predict.
    """

    with_labels = False

    def __init__(self, training: Pictures, test: Pictures):
        super().__init__(training, test)
        self.test_labels = rotation_labels(len(test.valid)).astype("int64")

    def _examples(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(_views)


def _views(features, *_label):
    images = features["image"]
    labels = tf.tile(tf.range(NUM_ROTATIONS), [tf.shape(images)[0]])
    return {"image": four_views(images)}, labels
