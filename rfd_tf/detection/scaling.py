"""Pictures at the sizes that a detector sees them in."""

import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import normalize


def scale_factor(height, width, short_side: int, longest: int):
    """What sides are multiplied by: the short one becomes `short_side`, or the long one `longest` at most."""
    short, long = min(height, width), max(height, width)
    return min(short_side / short, longest / long)


def scale_factors(height: tf.Tensor, width: tf.Tensor, short_sides, longest: int) -> tf.Tensor:
    """As `scale_factor`, for each of the S short sides and in a graph: float32 [S]."""
    sides = tf.cast(tf.stack([height, width]), tf.float64)
    factors = tf.constant(short_sides, tf.float64) / tf.reduce_min(sides)
    return tf.cast(tf.minimum(factors, longest / tf.reduce_max(sides)), tf.float32)


def scaled_picture(image: tf.Tensor, factor: tf.Tensor, mean, std) -> tf.Tensor:
    """`image` [H, W, 3] in 0..255, its sides multiplied by `factor` and rounded, with normalised channels.

    Bilinear without antialiasing, as Fast R-CNN's.
    """
    size = tf.cast(tf.round(tf.cast(tf.shape(image)[:2], tf.float32) * tf.cast(factor, tf.float32)), tf.int32)
    resized = tf.image.resize(image, tf.maximum(size, 1), "bilinear", antialias=False)
    return normalize(resized, mean, std)


def scaled_boxes(boxes: np.ndarray, factor: float) -> np.ndarray:
    """Boxes in a picture whose sides were multiplied by `factor`: their corners are multiplied, too."""
    return np.asarray(boxes, "float32") * np.float32(factor)
