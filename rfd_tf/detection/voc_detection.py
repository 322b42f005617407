"""Fast R-CNN on PASCAL VOC, from its config to its figures; started again, it goes on where it was."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from rfd_tf import distribution
from rfd_tf.data import VocSource, clipping_note
from rfd_tf.detection.assembly import Fold
from rfd_tf.detection.detect import DetectionOptions
from rfd_tf.detection.detector import DETECTOR_FILE, Detector, open_detector, save_detector
from rfd_tf.detection.detector_run import DetectorRun, in_epochs
from rfd_tf.detection.measure import measure
from rfd_tf.detection.proposed_pictures import ProposedPictures, find_proposals, open_annotated
from rfd_tf.evaluation import circumstances
from rfd_tf.evaluation.evaluate import claim_of, seconds_file
from rfd_tf.evaluation.results import EvaluationResult, MultiLabelFigures, save_result
from rfd_tf.evaluation.stopwatch import stopwatch
from rfd_tf.extractors import FeatureExtractor, KerasExtractor
from rfd_tf.training.resumable_run import set_up_keras
from rfd_tf.training.workdir import CACHE_FOLDER, check_workdir, claim_workdir, lock_workdir

PROTOCOL = "detection"


def voc_detection(
    config: ConfigDict,
    workdir: str | os.PathLike,
    open_model: Callable[[], FeatureExtractor],
    fold: Fold | None = None,
    command: str = "",
) -> EvaluationResult | None:
    """Propose regions, train a detector that begins as a pretrained network, and test it.

    Args:
        config: see `configs/detection/base.py`.
        workdir: the run's folder. It ends with `detector.keras` (see `open_detector`), `history.csv`,
            `checkpoints/`, `evaluation.json`, and `results/` (see `measure`). Workers other than the first
            keep theirs in `workdir/worker-N`, and do not test.
        open_model: opens the pretrained network; called once TensorFlow's devices are set up.
        fold: as of `detection.assembly.build_detector`.
        command: the command line, for the result.

    Returns:
        The figures of the test pictures; None on workers other than the first.

    Raises:
        WorkdirError: if the folder holds another run.
        BadImageError, VocError, ProposalError: on data that cannot be used; they name it.
        NonFiniteLossError: when a loss is no longer finite; the last checkpoint is from before.
        Stopped: on SIGTERM or Ctrl-C; what was done is kept.
        ValueError: on a config out of range, or a network that does not fit it.
    """
    run_config = in_epochs(config)
    options, saved = detection_options(config.test)
    strategy = distribution.create_strategy(config.strategy, config.logical_cpus)
    set_up_keras(config)
    worker = distribution.worker_index(strategy)
    workdir = Path(workdir) / (f"worker-{worker}" if worker else "")
    with open_model() as extractor:
        if not isinstance(extractor, KerasExtractor):
            raise ValueError(
                "A detector begins as a Keras model: a run's folder, a .keras file or zoo:NAME. "
                f"Received: {extractor.location}"
            )
        claimed = claim_of(PROTOCOL, config, extractor)
        check_workdir(workdir, claimed)
        with lock_workdir(workdir), stopwatch(seconds_file(workdir)) as seconds:
            learn_difficult = config.regions.get("learn_difficult", False)
            training = open_annotated(config.data, difficult=learn_difficult)
            test = open_annotated(config.validation, training.class_names)

            def proposed(source: VocSource, given: ConfigDict) -> ProposedPictures:
                orientation = bool(given.get("exif_orientation", False))
                boxes = find_proposals(config.proposals, source, workdir / CACHE_FOLDER, orientation)
                return ProposedPictures(source, boxes, orientation)

            # Before training, lest that be lost.
            to_test = None if worker else proposed(test, config.validation)
            if (workdir / DETECTOR_FILE).exists():
                detector = open_detector(workdir)
            else:
                run = DetectorRun(
                    run_config, workdir, strategy, proposed(training, config.data), extractor, fold
                )
                detector = _train(run, claimed, saved)
            if to_test is None:
                return None
            figures = measure(
                dataclasses.replace(detector, options=options),
                to_test,
                workdir,
                config.validation.split,
                config.draw,
                average_of_class=config.test.get("average_of_class", 0),
                round_results=config.test.get("round_results", False),
                saved=saved,
            )
            result = _result(config, extractor, training, test, figures, command, seconds())
            save_result(result, workdir)
            return result


def detection_options(test: ConfigDict) -> tuple[DetectionOptions, DetectionOptions]:
    """Of the test, and of the detector that is saved, which keeps less; from the `test` of a config.

    Raises:
        ValueError: on a value out of range, or `average_of_class` without `most_of_class`.
    """
    fields = {field.name for field in dataclasses.fields(DetectionOptions)}
    given = {name: value for name, value in test.items() if name in fields}
    options = DetectionOptions(**{**given, "short_sides": tuple(test.short_sides)})
    if (average := test.get("average_of_class", 0)) < 0 or (average and not options.most_of_class):
        raise ValueError(
            "`test.average_of_class` must not be negative, and needs a `test.most_of_class`. "
            f"Received: {average}, {options.most_of_class}"
        )
    limits = [most for most in (options.most, test.get("saved_most", 0)) if most]
    score = max(options.score, test.get("saved_score", 0.0))
    return options, dataclasses.replace(options, score=score, most=min(limits, default=0))


def _train(run: DetectorRun, claimed: dict, options: DetectionOptions) -> Detector:
    source = run.pictures.source
    logging.info(
        "%d pictures to learn from, with %d objects and %d regions",
        len(source),
        sum(len(annotation.labels) for annotation in source.annotations),
        sum(len(found.boxes) for found in run.regions),
    )
    run.build()
    claim_workdir(run.workdir, claimed)
    run.fit()
    info = run.extractor.info
    prepared = info.preprocessing
    detector = Detector(
        run.model,
        source.class_names,
        prepared.mean,
        prepared.std,
        options,
        info.name,
        run.proposed.exif_orientation,
    )
    if run.is_first_worker:
        save_detector(detector, run.workdir / DETECTOR_FILE)
    return detector


def _result(
    config: ConfigDict,
    extractor: KerasExtractor,
    training: VocSource,
    test: VocSource,
    figures: MultiLabelFigures,
    command: str,
    seconds: float,
) -> EvaluationResult:
    return EvaluationResult(
        protocol=PROTOCOL,
        model=extractor.location,
        command=command,
        figures={"Fast R-CNN": figures},
        class_names=list(training.class_names),
        class_counts=[int(count) for count in (training.targets == 1).sum(axis=0)],
        test_images=len(test),
        settings=config.to_dict(),
        seconds=round(seconds, 1),
        notes=[note for source in (training, test) if (note := clipping_note(source))],
        **circumstances.here_and_now(),
    )
