from collections.abc import Iterable, Mapping

import keras
import numpy as np
from keras import ops


def extract_features(
    backbone: keras.Model, batches: Iterable[Mapping], feature_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """One feature of every image, in inference mode; a map is averaged over space.

    Args:
        backbone: functional model from images to a dict of features.
        batches: dicts of `image` [B, H, W, C] and `index` [B], in any order, for example
            `rfd_tf.data.evaluation_dataset`.
        feature_name: one of the backbone's outputs.

    Returns:
        features, float32 [N, D], and index, int64 [N], in the batches' order.
    """

    def infer(images):
        feature = ops.cast(backbone(images, training=False)[feature_name], "float32")
        return ops.mean(feature, axis=(1, 2)) if len(feature.shape) == 4 else feature

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        infer = tf.function(infer, reduce_retracing=True)
    features, index = [], []
    for batch in batches:
        features.append(ops.convert_to_numpy(infer(batch["image"])))
        index.append(np.asarray(ops.convert_to_numpy(batch["index"]), dtype="int64"))
    if not features:
        raise ValueError("There are no images to take features of")
    return np.concatenate(features), np.concatenate(index)
