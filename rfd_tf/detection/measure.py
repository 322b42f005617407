"""A detector measured on a data set: figures, result files, and drawings of both."""

from pathlib import Path

import numpy as np

from rfd_tf.detection.coco_metrics import coco_figures
from rfd_tf.detection.detector import DetectionOptions, Detections, Detector
from rfd_tf.detection.drawing import DRAWN_SCORE, draw_detections, draw_precision_recall
from rfd_tf.detection.find_objects import detect_images
from rfd_tf.detection.inputs import ProposedImages
from rfd_tf.detection.results import (
    chosen,
    evaluate_detections,
    limit_average,
    rounded,
    write_coco_results,
    write_voc_results,
)
from rfd_tf.evaluation.results import MultiLabelFigures, figures_of
from rfd_tf.files import write_text
from rfd_tf.metrics.voc_average_precision import RULES
from rfd_tf.runs.workdir import CACHE_FOLDER

RESULTS = "results"  # folder


def measure(
    detector: Detector,
    images: ProposedImages,
    workdir: Path,
    split: str,
    draw: int,
    *,
    average_of_class: int = 0,
    round_results: bool = False,
    saved: DetectionOptions | None = None,
) -> MultiLabelFigures:
    """Detect in the images, hold it against their annotations, and write `workdir/results`.

    In there are VOC's result files (`comp4_det_SPLIT_CLASS.txt`), COCO's JSON (`coco.json`), tables by class
    (`table.md`), precision over recall (`precision_recall.png`), and drawn images.

    Args:
        detector: trained in `workdir`, with the options of the test.
        images: to test on.
        workdir: of the run; detections so far are kept in its cache.
        split: the name of the images' list, for VOC's files.
        draw: how many images to draw, the first ones, with detections of a score of 0.3 and more.
        average_of_class: as of `limit_average`.
        round_results: whether VOC's files have few decimals, see `rounded`; its figures are of the files.
        saved: options of the saved detector, no other than the test's but for `score` and `most`: COCO's file
            and figures are of what it finds. By default of the test's.

    Returns:
        Average precision by both rules; `extra` has COCO's figures.

    Raises:
        DetectionStopped, ValueError: as of `detect_images` and `limit_average`.
    """
    source = images.source
    detections = detect_images(
        detector, source.names, images.read, images.proposals, workdir / CACHE_FOLDER / "detections"
    )
    annotations = dict(zip(source.names, source.annotations, strict=True))
    kept = limit_average(detections, average_of_class)
    if round_results:
        kept = {name: rounded(found) for name, found in kept.items()}
    figures = evaluate_detections(kept, annotations, detector.class_names)
    detections = {name: _found(found, saved or detector.options) for name, found in detections.items()}
    coco = coco_figures(detections, annotations, detector.class_names)
    folder = workdir / RESULTS
    write_voc_results(folder, kept, detector.class_names, split, round_results)
    write_coco_results(folder / "coco.json", detections)
    write_text(folder / "table.md", f"{figures.table()}\n\n{coco.table()}\n")
    draw_precision_recall(figures, folder / "precision_recall.png")
    for index, (name, found) in enumerate(list(detections.items())[:draw]):
        path = folder / "pictures" / f"{name}.png"
        truth = annotations[name]
        draw_detections(path, images.read(index), found, detector.class_names, truth, DRAWN_SCORE)
    precisions = np.array([figures.average_precisions(rule) for rule in RULES])
    extra = {"coco_map": coco.ap, "coco_50_map": coco.ap_50, "coco_75_map": coco.ap_75}
    return figures_of(precisions, {name: value for name, value in extra.items() if not np.isnan(value)})


def _found(detections: Detections, options: DetectionOptions) -> Detections:
    """What a detector of these options finds, of what one without its floor and limit has found."""
    return chosen(chosen(detections, detections.scores >= options.score), slice(options.most or None))
