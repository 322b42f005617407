"""A square patch of a picture is turned in place; which way is what a network shall tell (LoRot).

Reference: Moon et al., "Tailoring Self-Supervision for Supervised Learning", ECCV 2022.
"""

import tensorflow as tf

from rfd_tf.data.augmentation import pick, uniform
from rfd_tf.rotations import NUM_ROTATIONS

# What there is to tell of each kind: the quadrant and its rotation, or the rotation of a patch anywhere.
LOCALIZED_ROTATIONS = {"explicit": 4 * NUM_ROTATIONS, "implicit": NUM_ROTATIONS}


def check_localized_rotation(kind: str, image_size: int) -> None:
    """Raise ValueError unless `kind` is one of `LOCALIZED_ROTATIONS` and fits images of that side."""
    if kind not in LOCALIZED_ROTATIONS:
        raise ValueError(
            f"A localized rotation must be one of {', '.join(LOCALIZED_ROTATIONS)}. Received: {kind!r}"
        )
    if image_size < 4 or (kind == "explicit" and image_size % 2):
        raise ValueError(
            "Images need a side of at least 4 pixels to have a patch rotated, an even one for a quadrant. "
            f"Received: image_size={image_size}"
        )


def localized_rotation(image: tf.Tensor, kind: str, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn one patch of `image` by 0, 90, 180 or 270 degrees counter-clockwise, all as likely.

    Args:
        image: [S, S, C], S known, at least 4, even for "explicit".
        kind: "explicit" turns a quadrant; "implicit" a square of side 2 to S / 2 anywhere.
        seed: stateless, [2].

    Returns:
        The image, and an int32 scalar: `4 * quadrant + quarter turns` in [0, 16), with the quadrants row by
        row, or the quarter turns in [0, 4).
    """
    size = image.shape[0]
    check_localized_rotation(kind, size)
    half = size // 2
    places, turned = tf.unstack(tf.reshape(uniform([4], seed), [2, 2]))
    turns = pick(tf.constant(NUM_ROTATIONS), turned[0])
    if kind == "explicit":
        quadrant = pick(tf.constant(4), places[0])
        top, left = quadrant // 2 * half, quadrant % 2 * half
        return rotate_patch(image, top, left, half, turns), NUM_ROTATIONS * quadrant + turns
    side = 2 + pick(tf.constant(half - 1), turned[1])
    top, left = tf.unstack(pick(tf.stack([size - side + 1] * 2), places))
    return rotate_patch(image, top, left, side, turns), turns


def rotate_patch(image: tf.Tensor, top, left, side, turns) -> tf.Tensor:
    """`image` [H, W, C] with the `side` x `side` pixels at (`top`, `left`) turned as by `np.rot90`."""
    height, width, _ = image.shape
    row, column = tf.meshgrid(tf.range(height) - top, tf.range(width) - left, indexing="ij")
    last = side - 1
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    # Where each pixel of the patch comes from, for each number of quarter turns.
    from_row = tf.stack([row, column, last - row, last - column])[turns]
    from_column = tf.stack([column, last - row, last - column, row])[turns]
    source = tf.stack([from_row + top, from_column + left], axis=-1)
    here = tf.stack([row + top, column + left], axis=-1)
    return tf.gather_nd(image, tf.where(inside[..., None], source, here))
