"""Boxes of Fast R-CNN: x1, y1, x2, y2 in pixels counted from 0, both corners inclusive.

Their width is x2 - x1 + 1. Keras's box functions take the corner beyond the last pixel; that is the only
difference, and `_beyond` and `_inclusive` bridge it. Fast R-CNN's code takes a box to be x2 - x1 wide where
it encodes and decodes, and only there: `exclusive`. All arrays are float32 [..., 4] unless said otherwise.

Reference: Girshick, "Fast R-CNN", ICCV 2015; Girshick et al., "Rich feature hierarchies", CVPR 2014, app. C.
"""

import numpy as np
from keras import ops
from keras.utils import bounding_boxes

_ANCHORS = {"anchor_format": "xyxy", "box_format": "xyxy"}
_DELTAS = "center_xywh"


def iou(boxes, others) -> np.ndarray:
    """Intersection over union [M, N] of boxes [M, 4] and [N, 4]."""
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)), "float32")
    found = bounding_boxes.compute_iou(_beyond(boxes), _beyond(others), bounding_box_format="xyxy")
    return ops.convert_to_numpy(found)


def encode(proposals, boxes, exclusive: bool = False):
    """From proposals to boxes: shifts of the centre over the proposal's size, logarithms of size ratios.

    `exclusive` sizes are x2 - x1, or 1e-7 where that is less.
    """
    ends = (_corners(proposals), _corners(boxes)) if exclusive else (_beyond(proposals), _beyond(boxes))
    return bounding_boxes.encode_box_to_deltas(*ends, **_ANCHORS, encoding_format=_DELTAS)


def decode(proposals, deltas, exclusive: bool = False):
    """The boxes that `deltas` make of proposals; both [R, 4]."""
    deltas = ops.convert_to_tensor(deltas, "float32")
    ends = _corners(proposals) if exclusive else _beyond(proposals)
    found = bounding_boxes.decode_deltas_to_boxes(ends, deltas, **_ANCHORS, encoded_format=_DELTAS)
    return found if exclusive else _inclusive(found)


def clip(boxes, height: int, width: int):
    """Corners moved into a picture of that size."""
    corners = ops.convert_to_tensor(boxes, "float32")
    highest = ops.convert_to_tensor([width - 1, height - 1, width - 1, height - 1], "float32")
    return ops.clip(corners, 0.0, highest)


def mirror(boxes: np.ndarray, width: int) -> np.ndarray:
    """The boxes in a picture of that width with left and right exchanged."""
    boxes = np.asarray(boxes, "float32")
    return np.stack([width - 1 - boxes[:, 2], boxes[:, 1], width - 1 - boxes[:, 0], boxes[:, 3]], axis=1)


def _corners(boxes):
    return ops.convert_to_tensor(boxes, "float32")


def _beyond(boxes):
    return _corners(boxes) + np.array([0, 0, 1, 1], "float32")


def _inclusive(boxes):
    return boxes - np.array([0, 0, 1, 1], "float32")
