from collections.abc import Iterable, Mapping

import keras
import numpy as np
from keras import ops


def extract_features(
    backbone: keras.Model, batches: Iterable[Mapping], feature_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """One feature of every image, in inference mode.

    Args:
        backbone: functional model from images to a dict of features.
        batches: dicts of `image` [B, H, W, C] and `index` [B], in any order, for example
            `rfd_tf.data.evaluation_dataset`.
        feature_name: one of the backbone's outputs.

    Returns:
        features, float32 [N, ...], and index, int64 [N], in the batches' order.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        infer = tf.function(
            lambda images: backbone(images, training=False)[feature_name], reduce_retracing=True
        )
    else:

        def infer(images):
            return backbone(images, training=False)[feature_name]

    features, index = [], []
    for batch in batches:
        features.append(ops.convert_to_numpy(ops.cast(infer(batch["image"]), "float32")))
        index.append(np.asarray(ops.convert_to_numpy(batch["index"]), dtype="int64"))
    if not features:
        raise ValueError("There are no images to take features of")
    return np.concatenate(features), np.concatenate(index)
