"""A SavedModel small enough to be told by heart: the features are the means of the three channels."""

import json
from pathlib import Path

import tensorflow as tf

from rfd_tf.data import Preprocessing
from rfd_tf.features import ModelInfo

NAME, SIDE = "means", 4


def write_means(
    folder: Path, version: int = 1, offset: float = 0.0, facts: dict | None = None, dtype=tf.float32
) -> Path:
    """`folder`, which then holds the version.

    Args:
        offset: added to the means.
        facts: in place of true ones.
        dtype: of the images.
    """
    kind = "uint8" if dtype == tf.uint8 else "normalized"
    info = ModelInfo(NAME, Preprocessing(SIDE, "resize"), {"features": (3,)}, kind)
    text = json.dumps(json.loads(info.to_json()) | (facts or {}))

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], dtype, name="image")])
    def means(image):
        return {"features": tf.reduce_mean(tf.cast(image, tf.float32), axis=(1, 2)) + offset}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="ignored")])
    def about(ignored):
        return {"json": tf.fill(tf.shape(ignored), text)}

    signatures = {"serving_default": means, "about": about}
    tf.saved_model.save(tf.Module(), str(folder / str(version)), signatures)
    return folder
