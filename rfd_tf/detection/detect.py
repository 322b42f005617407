"""What a trained detector finds in a picture, in operations of TensorFlow: for Python and for graphs."""

import dataclasses

import numpy as np
import tensorflow as tf

from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection.scaling import scale_factors, scaled_picture
from rfd_tf.layers.roi_max_pool import rounded_cells
from rfd_tf.models import FastRCNN

_BEST_SIDE = 224  # of a scaled proposal, in pixels: what the trunk was pretrained on
_FARTHEST_CELL = 2**14


@dataclasses.dataclass(frozen=True)
class DetectionOptions:
    """How detections are made of scores and boxes.

    Args:
        short_sides: of the picture as the network sees it, in pixels; 600 in Fast R-CNN. Of several scales,
            each proposal is scored at that which brings its area nearest to 224 x 224 pixels.
        longest: limit of its long side, which goes before.
        score: detections of lower probability are dropped, in [0, 1); 0 drops none.
        nms_iou: of two detections of one class that overlap by more, the one of lower score is dropped.
        most: detections kept in a picture, the likeliest of all classes; 0 keeps all.
        most_of_class: of each class only so many are looked at, the likeliest, before those that overlap are
            dropped; 0 for all.

    Raises:
        ValueError: on a number out of range.

    Reference: Girshick, "Fast R-CNN", ICCV 2015, section 2.4; He et al., "Spatial Pyramid Pooling", ECCV 2014
    (the choice of the scale).
    """

    short_sides: tuple[int, ...] = (600,)
    longest: int = 1000
    score: float = 0.05
    nms_iou: float = 0.3
    most: int = 100
    most_of_class: int = 0

    def __post_init__(self):
        if not self.short_sides or min(self.short_sides) < 1:
            raise ValueError(
                f"`short_sides` must be at least 1. Received: short_sides={tuple(self.short_sides)}"
            )
        for name, least in (("longest", 1), ("most", 0), ("most_of_class", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}. Received: {name}={getattr(self, name)}")
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
        candidates: where `DetectionOptions.most_of_class` limits them, float32 [C, m]: the scores of each
            class, falling, before those that overlap are dropped.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    candidates: np.ndarray | None = None


def detect(
    model: FastRCNN, image: tf.Tensor, proposals: tf.Tensor, mean, std, options: DetectionOptions
) -> dict[str, tf.Tensor]:
    """Classify the proposals of a picture, move their boxes, and drop what is unlikely or found twice.

    Args:
        model: trained.
        image: uint8 [H, W, 3].
        proposals: float32 [P, 4], boxes in that picture.
        mean, std: of the trunk's channels, as of `data.Preprocessing`.
        options: see there.

    Returns:
        Dict of `boxes`, `scores`, `labels` and, if limited, `candidates`, as of `Detections`.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    factors = scale_factors(height, width, options.short_sides, options.longest)
    scale = _nearest_scale(proposals, factors)
    rows, parts = [], []
    for place in range(len(options.short_sides)):
        own = tf.where(scale == place)[:, 0]
        rows.append(tf.cast(own, tf.int32))
        parts.append(_scored(model, image, tf.gather(proposals, own), factors[place], mean, std))
    probabilities, deltas = (tf.dynamic_stitch(rows, part) for part in zip(*parts, strict=True))
    return select(proposals, probabilities, deltas, height, width, options, model.exclusive_deltas)


def _nearest_scale(proposals: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """For each proposal the factor, by its place, that brings its area nearest to that of pretraining."""
    areas = tf.reduce_prod(proposals[:, 2:] - proposals[:, :2] + 1, axis=1)
    return tf.argmin(tf.abs(areas[:, None] * factors**2 - _BEST_SIDE**2), axis=1)


def _scored(model: FastRCNN, image, proposals, factor, mean, std) -> tuple[tf.Tensor, tf.Tensor]:
    """Probabilities [P, C + 1] and deltas [P, C + 1, 4] of proposals [P, 4] at one scale."""
    classes = model.num_classes + 1

    def found():
        scaled = proposals * factor
        distinct, shared = distinct_regions(scaled, model.stride)
        inputs = {
            "image": scaled_picture(image, factor, mean, std)[None],
            "regions": tf.gather(scaled, distinct)[None],
        }
        outputs = model(inputs, training=False)
        # Proposals that share their cells share what the network says; each moves its own box by it.
        probabilities = tf.nn.softmax(tf.cast(outputs["class_logits"][0], tf.float32))
        deltas = model.denormalized(tf.cast(outputs["deltas"][0], tf.float32))
        return tf.gather(probabilities, shared), tf.gather(deltas, shared)

    def nothing():
        return tf.zeros([0, classes]), tf.zeros([0, classes, 4])

    probabilities, deltas = tf.cond(tf.shape(proposals)[0] > 0, found, nothing)
    return tf.ensure_shape(probabilities, [None, classes]), tf.ensure_shape(deltas, [None, classes, 4])


def distinct_regions(scaled: tf.Tensor, stride: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows of the first region on each quadruple of cells, and for every region which of those it shares.

    Args:
        scaled: [P, 4], in pixels of the network's input.
        stride: pixels per cell.
    """
    cells = tf.cast(rounded_cells(scaled, stride), tf.int64)
    # Beyond the map all cells are alike. One number for four, since GPUs have no `unique` of rows.
    cells = tf.clip_by_value(cells, -_FARTHEST_CELL, _FARTHEST_CELL - 1) + _FARTHEST_CELL
    places = (2 * _FARTHEST_CELL) ** np.arange(4, dtype="int64")
    keys, shared = tf.unique(tf.reduce_sum(cells * places, axis=1))
    rows = tf.range(tf.size(shared))
    return tf.math.unsorted_segment_min(rows, shared, tf.size(keys)), shared


def select(
    proposals: tf.Tensor,
    probabilities: tf.Tensor,
    deltas: tf.Tensor,
    height,
    width,
    options: DetectionOptions,
    exclusive: bool = False,
) -> dict[str, tf.Tensor]:
    """Detections of proposals [P, 4], given probabilities [P, C + 1] and deltas [P, C + 1, 4] by class.

    `exclusive` is how the deltas are to be read, see `detection.boxes`. Of equal scores the class that comes
    first goes first.
    """
    proposals = tf.cast(proposals, tf.float32)
    scores, deltas = probabilities[:, 1:], tf.cast(deltas[:, 1:], tf.float32)
    classes = scores.shape[1]
    repeated = tf.repeat(proposals, classes, axis=0)
    moved = box_functions.decode(repeated, tf.reshape(deltas, [-1, 4]), exclusive)
    moved = box_functions.clip(moved, tf.cast(height, tf.float32), tf.cast(width, tf.float32))
    moved = tf.reshape(moved, [-1, classes, 4])

    limits = [limit for limit in (options.most, options.most_of_class) if limit]
    size = min(limits) if limits else tf.shape(proposals)[0]

    def kept(label: tf.Tensor) -> tf.Tensor:
        own = scores[:, label]
        likely = tf.where(own >= options.score)[:, 0]
        if options.most_of_class:
            order = tf.argsort(tf.gather(own, likely), direction="DESCENDING", stable=True)
            likely = tf.gather(likely, order[: options.most_of_class])
        beyond = tf.gather(moved[:, label], likely) + [0.0, 0.0, 1.0, 1.0]
        best = tf.image.non_max_suppression(
            tf.gather(beyond, [1, 0, 3, 2], axis=1), tf.gather(own, likely), size, options.nms_iou
        )
        rows = tf.gather(likely, best)
        return tf.pad(rows, [[0, size - tf.size(rows)]], constant_values=-1)

    signature = tf.TensorSpec([min(limits) if limits else None], tf.int64)
    rows = tf.map_fn(kept, tf.range(classes), fn_output_signature=signature)
    found = tf.where(rows >= 0)  # by class, then by score
    pairs = tf.stack([tf.gather_nd(rows, found), found[:, 0]], axis=1)
    likely = tf.gather_nd(scores, pairs)
    order = tf.argsort(likely, direction="DESCENDING", stable=True)[: options.most or None]
    pairs = tf.gather(pairs, order)
    result = {
        "boxes": tf.gather_nd(moved, pairs),
        "scores": tf.gather(likely, order),
        "labels": pairs[:, 1],
    }
    if options.most_of_class:
        falling = tf.sort(scores, axis=0, direction="DESCENDING")[: options.most_of_class]
        result["candidates"] = tf.transpose(falling)
    return result
