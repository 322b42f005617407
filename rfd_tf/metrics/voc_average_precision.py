"""Average precision by the rules of PASCAL VOC, for classification and detection.

Reference: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, section 4, and
    the VOC devkit.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

RULES = ("11_point", "area")  # of VOC 2007, and of VOC 2010 and later
IOU_THRESHOLD = 0.5

_IGNORED = -1


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall of the detections of one class, or of images by a class's score.

    Attributes:
        true_positives: int64 [M], how many of the first 1, 2, ..., M counted detections are right.
        num_positives: objects (or images) that there are to find, P.
        scores: [M], falling.
    """

    true_positives: np.ndarray
    num_positives: int
    scores: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """[M] in [0, 1]."""
        return self.true_positives / np.arange(1, len(self.true_positives) + 1)

    @property
    def recall(self) -> np.ndarray:
        """[M] in [0, 1]; NaN where there is nothing to find."""
        return self.true_positives / (self.num_positives or np.nan)

    @property
    def envelope(self) -> np.ndarray:
        """[M], the highest precision at each recall or beyond."""
        return np.maximum.accumulate(self.precision[::-1])[::-1]

    def average_precision(self, rule: str = "11_point") -> float:
        """In [0, 1]; NaN where there is nothing to find.

        Args:
            rule: "11_point" is the mean over recall 0, 0.1, ..., 1 of the highest precision at that recall or
                beyond, 0 if none gets there; "area" that under this precision envelope.

        Recalls are compared as fractions, so that 3 of 10 do reach 0.3.
        """
        if rule not in RULES:
            raise ValueError(f"`rule` must be one of {RULES}. Received: {rule!r}")
        if not self.num_positives:
            return float("nan")
        envelope = np.append(self.envelope, 0.0)
        if rule == "area":
            gained = np.diff(self.true_positives, prepend=0)
            return float(np.sum(envelope[:-1] * gained) / self.num_positives)
        first = [np.searchsorted(10 * self.true_positives, k * self.num_positives) for k in range(11)]
        return float(np.mean(envelope[first]))


def image_precision_recall(scores, labels) -> PrecisionRecall:
    """Of images ranked by one class's score.

    Args:
        scores: [N], higher is likelier. Of equal scores the earlier image comes first, as in the devkit.
        labels: [N], the devkit's: 1 where the class is there, -1 where it is not, 0 where only difficult
            objects of it are, which does not count.

    Raises:
        ValueError: on lengths that differ, other labels, or scores that are not finite.
    """
    scores, labels = np.asarray(scores, "float64"), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"`scores` and `labels` must be [N] both. Received: {scores.shape}, {labels.shape}")
    _check_finite(scores)
    if (unknown := labels[~np.isin(labels, (-1, 0, 1))]).size:
        raise ValueError(f"Labels must be 1, -1 or 0. Received: {unknown[0]}")
    counted = labels != 0
    scores, right = scores[counted], labels[counted] == 1
    order = np.argsort(-scores, kind="stable")
    return PrecisionRecall(np.cumsum(right[order]), int(right.sum()), scores[order])


def detection_precision_recall(
    images, scores, boxes, objects: Mapping, difficult: Mapping, iou_threshold: float = IOU_THRESHOLD
) -> PrecisionRecall:
    """Of detections of one class in any number of images.

    By falling score (equal ones in order) each detection is compared with the object of its image that it
    overlaps most. Below `iou_threshold` it is wrong; else it does not count if the object is difficult, is
    right if that object has not been found before, and is wrong as a duplicate.

    Args:
        images: [M], the image of each detection, keys of `objects`; an image that is not a key has no object.
        scores: [M].
        boxes: [M, 4], x1, y1, x2, y2 in pixels, corners inclusive.
        objects: image -> boxes [n, 4] of this class there.
        difficult: image -> booleans [n]; difficult objects are not to be found.
        iou_threshold: in (0, 1].

    Raises:
        ValueError: on shapes that do not fit, or scores or boxes that are not finite.
    """
    scores, boxes = np.asarray(scores, "float64"), np.asarray(boxes, "float64").reshape(-1, 4)
    if not len(images) == len(scores) == len(boxes):
        raise ValueError(
            "Detections need an image, a score and a box each. "
            f"Received: {len(images)}, {len(scores)}, {len(boxes)}"
        )
    _check_finite(scores)
    if not np.isfinite(boxes).all():
        raise ValueError("Boxes must be finite numbers")
    truth = {image: np.asarray(found, "float64").reshape(-1, 4) for image, found in objects.items()}
    hard = {image: np.asarray(difficult[image], bool) for image in truth}
    taken = {image: np.zeros(len(found), bool) for image, found in truth.items()}
    order = np.argsort(-scores, kind="stable")
    verdicts = [_verdict(images[m], boxes[m], truth, hard, taken, iou_threshold) for m in order]
    verdicts = np.array(verdicts, "int64")
    counted = verdicts != _IGNORED
    num_positives = sum(int((~flags).sum()) for flags in hard.values())
    return PrecisionRecall(np.cumsum(verdicts[counted]), num_positives, scores[order][counted])


def _verdict(image, box, truth, hard, taken, iou_threshold: float) -> int:
    """1 for a true positive, 0 for a false one; marks the object as taken."""
    found = truth.get(image)
    if found is None or not len(found):
        return 0
    overlaps = inclusive_iou(box[None], found)[0]
    best = int(np.argmax(overlaps))
    if overlaps[best] < iou_threshold:
        return 0
    if hard[image][best]:
        return _IGNORED
    if taken[image][best]:
        return 0
    taken[image][best] = True
    return 1


def inclusive_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union [M, N] of boxes x1, y1, x2, y2 of inclusive pixels: width x2 - x1 + 1.

    In double precision, as the devkit's: whether a detection counts must not depend on rounding.
    """
    boxes, others = np.asarray(boxes, "float64"), np.asarray(others, "float64")
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(bottom_right - top_left + 1, 0, None).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2] + 1).prod(axis=1) for b in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def _check_finite(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(f"Scores must be finite. Received: {scores[~np.isfinite(scores)][0]}")
