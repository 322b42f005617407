"""Boxes of Fast R-CNN, and the candidate regions matched to an image's objects.

A box is x1, y1, x2, y2 in pixels counted from 0, both corners inclusive: its width is x2 - x1 + 1. Keras's
box functions expect the corner beyond the last pixel, hence `_LAST_PIXEL`. Fast R-CNN's code takes a box to
be x2 - x1 wide where it encodes and decodes, and only there: `exclusive`. All arrays are float32 [..., 4]
unless said otherwise.

Reference: Girshick, "Fast R-CNN", ICCV 2015; Girshick et al., "Rich feature hierarchies", CVPR 2014, app. C.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from keras import ops
from keras.utils import bounding_boxes

from rfd_tf.data.augmentation import normalize
from rfd_tf.data.voc import Annotation
from rfd_tf.metrics import inclusive_iou

_LAST_PIXEL = np.array([0, 0, 1, 1], "float32")
_FORMATS = {"anchor_format": "xyxy", "box_format": "xyxy"}


def encode(proposals, boxes, exclusive: bool = False):
    """From proposals to boxes: shifts of the centre over the proposal's size, logarithms of size ratios.

    `exclusive` sizes are x2 - x1, or 1e-7 where that is less.
    """
    ends = [ops.convert_to_tensor(corners, "float32") for corners in (proposals, boxes)]
    if not exclusive:
        ends = [corners + _LAST_PIXEL for corners in ends]
    return bounding_boxes.encode_box_to_deltas(*ends, **_FORMATS, encoding_format="center_xywh")


def decode(proposals, deltas, exclusive: bool = False):
    """The boxes that `deltas` make of proposals; both [R, 4]."""
    beyond = 0.0 if exclusive else _LAST_PIXEL
    corners = ops.convert_to_tensor(proposals, "float32") + beyond
    deltas = ops.convert_to_tensor(deltas, "float32")
    return (
        bounding_boxes.decode_deltas_to_boxes(corners, deltas, **_FORMATS, encoded_format="center_xywh")
        - beyond
    )


def clip(boxes, height: int, width: int):
    """Corners moved into an image of that size."""
    corners = ops.convert_to_tensor(boxes, "float32")
    highest = ops.convert_to_tensor([width - 1, height - 1, width - 1, height - 1], "float32")
    return ops.clip(corners, 0.0, highest)


def mirror(boxes: np.ndarray, width: int) -> np.ndarray:
    """The boxes in an image of that width with left and right exchanged."""
    boxes = np.asarray(boxes, "float32")
    return np.stack([width - 1 - boxes[:, 2], boxes[:, 1], width - 1 - boxes[:, 0], boxes[:, 3]], axis=1)


def scale_factors(height, width, short_sides, longest: int) -> tf.Tensor:
    """What sides are multiplied by, float32 [S], for each of S lengths in pixels of the short side.

    The short side becomes that long, unless the long one would exceed `longest`.
    """
    sides = tf.cast(tf.stack([height, width]), tf.float64)
    factors = tf.cast(short_sides, tf.float64) / tf.reduce_min(sides)
    return tf.cast(tf.minimum(factors, longest / tf.reduce_max(sides)), tf.float32)


def scaled_image(image: tf.Tensor, factor: tf.Tensor, mean, std) -> tf.Tensor:
    """`image` [H, W, 3] in 0..255, its sides multiplied by `factor` and rounded, with normalised channels.

    Bilinear without antialiasing, as Fast R-CNN's.
    """
    size = tf.cast(tf.round(tf.cast(tf.shape(image)[:2], tf.float32) * tf.cast(factor, tf.float32)), tf.int32)
    resized = tf.image.resize(image, tf.maximum(size, 1), "bilinear", antialias=False)
    return normalize(resized, mean, std)


FOREGROUND_IOU = 0.5
BACKGROUND_IOU = (0.1, 0.5)  # from, to before


@dataclasses.dataclass(frozen=True)
class Regions:
    """The R candidate regions of an image: the objects that are learnt, then its proposals.

    Attributes:
        boxes: float32 [R, 4], see `detection.boxes`.
        overlaps: float32 [R], the highest IoU with an object; 0 in an image without objects.
        labels: int64 [R], the class of that object plus 1, whatever the overlap; 0 is the background.
        deltas: float32 [R, 4], from the region to that object; 0 where the IoU is below 0.5.
    """

    boxes: np.ndarray
    overlaps: np.ndarray
    labels: np.ndarray
    deltas: np.ndarray


def match_regions(
    proposals, annotation: Annotation, learn_difficult: bool = False, exclusive: bool = False
) -> Regions:
    """The regions of an image, matched to its objects.

    Args:
        proposals: [P, 4], see `detection.boxes`.
        annotation: the image's.
        learn_difficult: whether to learn difficult objects like any other, as in Fast R-CNN's code, or to
            ignore them.
        exclusive: how wide boxes are for `deltas`, see `detection.boxes`. Where a side of either box then has
            the size 0, its deltas are 0.
    """
    proposals = np.asarray(proposals, "float32").reshape(-1, 4)
    learnt = np.full(len(annotation.labels), True) if learn_difficult else ~annotation.difficult
    objects, classes = annotation.boxes[learnt], annotation.labels[learnt]
    boxes = np.concatenate([objects, proposals])
    if not len(objects):
        nothing = np.zeros(len(boxes), "float32")
        return Regions(boxes, nothing, nothing.astype("int64"), np.zeros_like(boxes))
    overlaps = inclusive_iou(boxes, objects).astype("float32")
    nearest = overlaps.argmax(axis=1)
    highest = overlaps.max(axis=1)
    targets = objects[nearest]
    deltas = np.array(encode(boxes, targets, exclusive))
    deltas[highest < FOREGROUND_IOU] = 0
    if exclusive:  # shifts over a size of 0 are of no use, and one of them outweighs all others
        flat = (boxes[:, 2:] <= boxes[:, :2]) | (targets[:, 2:] <= targets[:, :2])
        deltas[flat.any(axis=1)] = 0
    return Regions(boxes, highest, classes[nearest] + 1, deltas)


def sample_regions(
    overlaps: np.ndarray, count: int, rng: np.random.Generator, foreground_share: float = 0.25
) -> tuple[np.ndarray, np.ndarray]:
    """Draw regions to learn from: foreground, and background that overlaps an object somewhat.

    Args:
        overlaps: [R] of an image's `Regions`.
        count: of regions; fewer where there are not enough of either kind.
        rng: draws without replacement.
        foreground_share: of `count`, at most. What foreground lacks, background makes up.

    Returns:
        Rows, int64, foreground first, and whether each is foreground.
    """
    foreground = np.flatnonzero(overlaps >= FOREGROUND_IOU)
    background = np.flatnonzero((overlaps >= BACKGROUND_IOU[0]) & (overlaps < BACKGROUND_IOU[1]))
    first = _drawn(foreground, round(foreground_share * count), rng)
    second = _drawn(background, count - len(first), rng)
    return np.concatenate([first, second]), np.arange(len(first) + len(second)) < len(first)


def delta_statistics(regions: list[Regions], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the foreground regions' deltas by class, two float32 [num_classes + 1, 4].

    Targets are normalised by them. They count the images and their mirror images, since training sees
    both: sideways shifts have mean 0. They are 0 and 1 for the background and for a class without
    foreground, and a deviation of 0 becomes 1.
    """
    labels = np.concatenate([r.labels[r.overlaps >= FOREGROUND_IOU] for r in regions])
    deltas = np.concatenate([r.deltas[r.overlaps >= FOREGROUND_IOU] for r in regions]).astype("float64")
    labels, deltas = np.tile(labels, 2), np.concatenate([deltas, deltas * [-1, 1, 1, 1]])
    means, deviations = np.zeros((num_classes + 1, 4)), np.ones((num_classes + 1, 4))
    for label in range(1, num_classes + 1):
        own = deltas[labels == label]
        if len(own):
            means[label], spread = own.mean(axis=0), own.std(axis=0)
            deviations[label] = np.where(spread > 0, spread, 1.0)
    return means.astype("float32"), deviations.astype("float32")


def _drawn(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(rows, min(count, len(rows)), replace=False) if len(rows) else rows
