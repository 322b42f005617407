"""COCO's figures of detections, by COCO's own tools, and its result file."""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rfd_tf.data.voc import Annotation
from rfd_tf.detection.detector import Detections
from rfd_tf.detection.voc_metrics import check_same_images, percent
from rfd_tf.files import write_text

try:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
except ImportError as error:
    raise ImportError(f"COCO's figures need its tools ({error}): pip install 'rfd_tf[detection]'") from error

_LABELS = {
    "ap": "AP, IoU 0.50 to 0.95",
    "ap_50": "AP, IoU 0.50",
    "ap_75": "AP, IoU 0.75",
    "ap_small": "AP, objects up to 32 x 32 pixels",
    "ap_medium": "AP, objects up to 96 x 96",
    "ap_large": "AP, larger objects",
    "ar_1": "AR, 1 detection of a class in an image",
    "ar_10": "AR, 10 detections",
    "ar_100": "AR, 100 detections",
    "ar_small": "AR, objects up to 32 x 32 pixels",
    "ar_medium": "AR, objects up to 96 x 96",
    "ar_large": "AR, larger objects",
}


@dataclasses.dataclass(frozen=True)
class CocoFigures:
    """Average precision (AP) and recall (AR) over the classes that have such objects, in [0, 1]; NaN if none.

    AP is the mean over recall 0, 0.01, ..., 1 of the highest precision at that recall or beyond. Where no IoU
    is named, it is the mean over 0.5, 0.55, ..., 0.95; AR is the mean over these of the highest recall, at
    100 detections of a class in an image unless the name says another number.

    Attributes:
        ap, ap_50, ap_75: the number is the IoU in percent.
        ap_small, ap_medium, ap_large: of objects of up to 32 x 32, 32 x 32 to 96 x 96, more pixels.
        ar_1, ar_10, ar_100: the number is of detections.
        ar_small, ar_medium, ar_large: as for AP.
        class_names: of the C classes.
        class_ap: [C], `ap` of each.
    """

    ap: float
    ap_50: float
    ap_75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    class_names: tuple[str, ...]
    class_ap: np.ndarray

    def table(self) -> str:
        """Markdown: the twelve figures in %."""
        lines = [f"| {label} | {percent(getattr(self, name))} |" for name, label in _LABELS.items()]
        return "\n".join(["| COCO's figure | % |", "|---|---:|", *lines])


def coco_figures(
    detections: Mapping[str, Detections], annotations: Mapping[str, Annotation], class_names: Sequence[str]
) -> CocoFigures:
    """COCO's figures of the detections in the images of `annotations`, both by the images' names.

    COCO has no difficult objects. Here any number of detections that match one do not count, as in VOC's
    evaluation and as with COCO's crowds; but the overlap with it is the ordinary IoU. (With a crowd it is the
    share of the detection's area, so that anything small within a difficult object would match.)

    Raises:
        ValueError: unless both are of the same images.
    """
    check_same_images(detections, annotations)
    with contextlib.redirect_stdout(io.StringIO()):  # the tools print each step
        numbers = range(1, len(annotations) + 1)
        entries = _found(numbers, [detections[name] for name in annotations])
        truth = _coco(len(annotations), len(class_names), _objects(annotations))
        found = _coco(len(annotations), len(class_names), entries)
        evaluation = _Evaluation(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = np.where(evaluation.stats < 0, np.nan, evaluation.stats)  # -1 where there is nothing to find
    # [IoU, recall, class, area, number of detections]
    by_class = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    by_class = np.where(by_class < 0, np.nan, by_class)
    values = dict(zip(_LABELS, map(float, figures), strict=True))
    return CocoFigures(**values, class_names=tuple(class_names), class_ap=by_class)


class _Evaluation(COCOeval):
    """COCO's, but the overlap with crowds is the ordinary IoU."""

    def computeIoU(self, imgId, catId):  # noqa: N802, N803 - the tools' names
        objects = self._gts[imgId, catId]
        crowds = [found["iscrowd"] for found in objects]
        for found in objects:
            found["iscrowd"] = 0
        overlaps = super().computeIoU(imgId, catId)
        for found, crowd in zip(objects, crowds, strict=True):
            found["iscrowd"] = crowd
        return overlaps


def _objects(annotations: Mapping[str, Annotation]) -> list[dict]:
    return [
        {**_entry(image, box, label), "iscrowd": int(difficult)}
        for image, truth in enumerate(annotations.values(), 1)
        for box, label, difficult in zip(truth.boxes, truth.labels, truth.difficult, strict=True)
    ]


def _found(numbers: Iterable[int], detections: Iterable[Detections]) -> list[dict]:
    """Entries of the detections in images of these numbers."""
    return [
        {**_entry(image, box, label), "score": float(score)}
        for image, found in zip(numbers, detections, strict=True)
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
    ]


def _entry(image: int, box: np.ndarray, label: int) -> dict:
    """A box of an image as COCO writes it: classes count from 1, `bbox` is x, y, width, height."""
    x1, y1, x2, y2 = box.astype("float64").tolist()
    bbox = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
    return {"image_id": image, "category_id": int(label) + 1, "bbox": bbox}


def _coco(num_images: int, num_classes: int, entries: list[dict]) -> COCO:
    """Entries as COCO's tools hold a file of them. Their numbers begin at 1: 0 is "none" to the tools."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image + 1} for image in range(num_images)],
        "categories": [{"id": label + 1} for label in range(num_classes)],
        "annotations": [
            {"id": number, "area": entry["bbox"][2] * entry["bbox"][3], **entry}
            for number, entry in enumerate(entries, 1)
        ],
    }
    coco.createIndex()
    return coco


def write_coco_results(path: str | os.PathLike, detections: Mapping[str, Detections]) -> None:
    """COCO's result format: `image_id`, `category_id` from 1, `bbox` as [x, y, width, height], `score`.

    An image's id is its name if that is a number (000005 is 5), else its place, from 1.
    """
    by_name = all(name.isdecimal() for name in detections)
    numbers = map(int, detections) if by_name else range(1, len(detections) + 1)
    write_text(path, json.dumps(_found(numbers, detections.values())))
