"""Which proposals a detector learns from, and what it shall say of them.

Reference: Girshick, "Fast R-CNN", ICCV 2015, section 2.3.
"""

import dataclasses

import numpy as np

from rfd_tf.data.voc import Annotation
from rfd_tf.detection import boxes as box_functions

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = (0.1, 0.5)  # from, to before


@dataclasses.dataclass(frozen=True)
class Regions:
    """The R candidate regions of a picture: the objects that are learnt, then its proposals.

    Attributes:
        boxes: float32 [R, 4], see `detection.boxes`.
        overlaps: float32 [R], the highest IoU with an object; 0 in a picture without.
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
    """The regions of a picture, held against its objects.

    Args:
        proposals: [P, 4], see `detection.boxes`.
        annotation: the picture's.
        learn_difficult: whether difficult objects are like any other, as in Fast R-CNN's code; else they are
            as if they were not there.
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
    overlaps = box_functions.iou(boxes, objects)
    nearest = overlaps.argmax(axis=1)
    highest = overlaps.max(axis=1)
    targets = objects[nearest]
    deltas = np.array(box_functions.encode(boxes, targets, exclusive))
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
        overlaps: [R] of a picture's `Regions`.
        count: of regions; fewer come where there are not enough of either kind.
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

    Targets are normalised by them. They are of the pictures and their mirror images alike, since training
    sees both: sideways shifts have mean 0. They are 0 and 1 for the background and for a class without
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
