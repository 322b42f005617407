"""What a trained detector finds in a picture."""

import dataclasses

import numpy as np
import tensorflow as tf

from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection.scaling import scale_factor, scaled_boxes, scaled_picture
from rfd_tf.models import FastRCNN


@dataclasses.dataclass(frozen=True)
class DetectionOptions:
    """How detections are made of scores and boxes.

    Args:
        short_side: of the picture as the network sees it, in pixels; 600 in Fast R-CNN.
        longest: limit of its long side, which goes before.
        score: detections of lower probability are dropped, in [0, 1).
        nms_iou: of two detections of one class that overlap by more, the one of lower score is dropped.
        most: detections kept in a picture, the likeliest of all classes.

    Raises:
        ValueError: on a number out of range.
    """

    short_side: int = 600
    longest: int = 1000
    score: float = 0.05
    nms_iou: float = 0.3
    most: int = 100

    def __post_init__(self):
        for name in ("short_side", "longest", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {name}={getattr(self, name)}")
        for name in ("score", "nms_iou"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Detections:
    """The n detections in a picture, by falling score.

    Attributes:
        boxes: float32 [n, 4], within the picture; see `detection.boxes`.
        scores: float32 [n], probabilities of the class.
        labels: int64 [n], classes of the data, from 0.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


_NOTHING = Detections(np.zeros((0, 4), "float32"), np.zeros(0, "float32"), np.zeros(0, "int64"))


def detect(
    model: FastRCNN,
    image: np.ndarray,
    proposals: np.ndarray,
    preprocessing: Preprocessing,
    options: DetectionOptions | None = None,
) -> Detections:
    """Classify the proposals of a picture, move their boxes, and drop what is unlikely or found twice.

    Args:
        model: trained.
        image: uint8 [H, W, 3].
        proposals: [P, 4], boxes in that picture.
        preprocessing: of the trunk; its mean and deviation are used.
        options: those of Fast R-CNN by default.
    """
    options = options or DetectionOptions()
    height, width = image.shape[:2]
    factor = scale_factor(height, width, options.short_side, options.longest)
    scaled = scaled_boxes(np.asarray(proposals).reshape(-1, 4), factor)
    if not len(scaled):
        return _NOTHING
    distinct, inverse = distinct_regions(scaled, model.stride)
    inputs = {
        "image": scaled_picture(tf.constant(image), factor, preprocessing)[None],
        "regions": scaled[distinct][None],
    }
    found = model(inputs, training=False)
    # Proposals that share their cells share what the network says; each moves its own box by it.
    probabilities = tf.nn.softmax(found["class_logits"][0]).numpy()[inverse]
    deltas = tf.convert_to_tensor(model.denormalized(found["deltas"][0])).numpy()[inverse]
    return select(np.asarray(proposals, "float32"), probabilities, deltas, height, width, options)


def distinct_regions(scaled: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the first region on each quadruple of cells, and for every region which of those it shares."""
    cells = np.floor(scaled / stride + 0.5).astype("int64")
    _, rows, inverse = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    return rows, inverse.reshape(-1)


def select(
    proposals: np.ndarray,
    probabilities: np.ndarray,
    deltas: np.ndarray,
    height: int,
    width: int,
    options: DetectionOptions,
) -> Detections:
    """Detections of proposals [P, 4], given probabilities [P, C + 1] and deltas [P, C + 1, 4] by class."""
    boxes, scores, labels = [], [], []
    for label in range(1, probabilities.shape[1]):
        likely = np.flatnonzero(probabilities[:, label] >= options.score)
        if not len(likely):
            continue
        moved = box_functions.decode(proposals[likely], deltas[likely, label])
        moved = np.asarray(box_functions.clip(moved, height, width))
        own = probabilities[likely, label]
        kept = tf.image.non_max_suppression(
            (moved + np.float32([0, 0, 1, 1]))[:, [1, 0, 3, 2]], own, options.most, options.nms_iou
        ).numpy()
        boxes.append(moved[kept])
        scores.append(own[kept])
        labels.append(np.full(len(kept), label - 1))
    if not boxes:
        return _NOTHING
    boxes, scores, labels = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    order = np.argsort(-scores, kind="stable")[: options.most]
    return Detections(boxes[order], scores[order].astype("float32"), labels[order].astype("int64"))
