"""The four quarter turns of an image: the pretext task's views and their labels."""

import numpy as np
from keras import ops

NUM_ROTATIONS = 4


def four_views(images):
    """Every image turned by 0, 90, 180 and 270 degrees counter-clockwise, as `np.rot90(image, k)`.

    Args:
        images: [B, S, S, C], square.

    Returns:
        [4 * B, S, S, C], the four views of an image side by side: row `4 * i + k` is image i turned k times.

    Raises:
        ValueError: if the images are not square; their views would not share one shape.
    """
    _, height, width, channels = images.shape
    if height != width or height is None:
        raise ValueError(
            f"Images must be square and of fixed size to be rotated. Received shape {images.shape}"
        )
    transposed = ops.transpose(images, (0, 2, 1, 3))
    views = [images, ops.flip(transposed, 1), ops.flip(ops.flip(images, 1), 2), ops.flip(transposed, 2)]
    return ops.reshape(ops.stack(views, axis=1), (-1, height, width, channels))


def four_views_of_two_crops(first, second):
    """The four views of every image, 0 and 180 degrees from its first crop, 90 and 270 from its second.

    Args:
        first: [B, S, S, C], square.
        second: [B, S, S, C], another crop of the same images.

    Returns:
        [4 * B, S, S, C], in the order of `four_views`.
    """
    by_image = (-1, NUM_ROTATIONS, *first.shape[1:])
    first, second = (ops.reshape(four_views(crop), by_image) for crop in (first, second))
    views = [first[:, 0], second[:, 1], first[:, 2], second[:, 3]]
    return ops.reshape(ops.stack(views, axis=1), (-1, *first.shape[2:]))


def rotation_labels(num_images: int) -> np.ndarray:
    """Labels 0 1 2 3 0 1 2 3 ... of the views of `num_images` images, int32 of shape [4 * num_images]."""
    return np.tile(np.arange(NUM_ROTATIONS, dtype="int32"), num_images)


def rotation_labels_like(logits):
    """Rotation labels [4 * B] for logits [4 * B, 4]; B may be unknown while tracing."""
    if logits.shape[0] is not None:
        return rotation_labels(logits.shape[0] // NUM_ROTATIONS)
    return ops.arange(ops.shape(logits)[0], dtype="int32") % NUM_ROTATIONS
