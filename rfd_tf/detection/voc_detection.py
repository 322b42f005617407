"""`rfd detect`: Fast R-CNN from a config and a pretrained network to figures on PASCAL VOC."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
from absl import logging
from keras import layers
from ml_collections import ConfigDict

from rfd_tf import distribution
from rfd_tf.data import Schedule, VocSource, clipping_note, steps_per_epoch
from rfd_tf.detection.boxes import delta_statistics, match_regions
from rfd_tf.detection.coco_metrics import coco_figures, write_coco_results
from rfd_tf.detection.detector import DETECTOR_FILE, DetectionOptions, Detector, open_detector, save_detector
from rfd_tf.detection.fast_rcnn import FastRCNN
from rfd_tf.detection.find_objects import DRAWINGS, DRAWN_SCORE, detect_images, draw_detections
from rfd_tf.detection.inputs import (
    BatchOptions,
    ProposedImages,
    detection_batches,
    find_proposals,
    open_annotated,
)
from rfd_tf.detection.voc_metrics import (
    chosen,
    draw_precision_recall,
    evaluate_detections,
    limit_average,
    rounded,
    write_voc_results,
)
from rfd_tf.evaluation.experiment import owner_of
from rfd_tf.evaluation.results import EvaluationResult, MultiLabelFigures, figures_of, save_result
from rfd_tf.features import FeatureModel, KerasFeatureModel
from rfd_tf.files import absolute_location, write_text
from rfd_tf.layers import RoIMaxPool
from rfd_tf.metrics.voc_average_precision import RULES
from rfd_tf.models import dense_weights
from rfd_tf.models.backbone import any_size
from rfd_tf.models.folding import fold_batch_norm
from rfd_tf.models.keras_file import digest_weights
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.runs import build
from rfd_tf.runs.fit import Training, fit
from rfd_tf.runs.images import ImageSet, check_same_on_all_workers, name_bad_image
from rfd_tf.runs.run import Run, check_run_values, start_run

PROTOCOL = "detection"
RESULTS = "results"  # folder


def voc_detection(
    config: ConfigDict,
    workdir: str | os.PathLike,
    open_model: Callable[[], FeatureModel],
    command: str = "",
) -> EvaluationResult | None:
    """Propose regions, train a detector that begins as a pretrained network, and test it.

    Args:
        config: see `configs/detect/base.py`.
        workdir: the run's folder. In the end it holds `detector.keras` (see `open_detector`), `history.csv`,
            `checkpoints/`, `evaluation.json`, and `results/` (see `measure`). Workers other than the first
            keep theirs in `workdir/worker-N`, and do not test.
        open_model: opens the pretrained network; called once TensorFlow's devices are set up.
        command: the command line, for the result.

    Returns:
        The figures of the test images; None on workers other than the first.

    Raises:
        WorkdirError: if the folder holds another run.
        BadImageError, VocError, ProposalError: on data that cannot be used; they name it.
        NonFiniteLossError: when a loss is no longer finite; the last checkpoint is from before.
        Stopped: on SIGTERM or Ctrl-C; finished work is kept.
        ValueError: on a config out of range, or a network that does not fit it.
    """
    run = start_run(in_epochs(config), workdir, command)
    config.dtype_policy = run.config.dtype_policy
    options, saved = detection_options(config.test)
    with open_model() as feature_model:
        if not isinstance(feature_model, KerasFeatureModel):
            raise ValueError(
                "A detector begins as a Keras model: a run's folder, a .keras file or zoo:NAME. "
                f"Received: {feature_model.location}"
            )
        with run.hold_folder(owner_of(PROTOCOL, config, feature_model)) as folder:
            learn_difficult = config.regions.get("learn_difficult", False)
            training = open_annotated(config.data, difficult=learn_difficult)
            test = open_annotated(config.validation, training.class_names)
            # Before training, lest that be lost.
            to_test = None if run.worker else _proposed(run, test, config.validation)
            if (run.workdir / DETECTOR_FILE).exists():
                detector = open_detector(run.workdir)
            else:
                images = _proposed(run, training, config.data)
                model = train_detector(run, images, feature_model, folder.claim)
                facts = feature_model.info
                detector = Detector(
                    model,
                    training.class_names or (),
                    facts.preprocessing.mean,
                    facts.preprocessing.std,
                    saved,
                    facts.name,
                    images.exif_orientation,
                )
                if not run.worker:
                    save_detector(detector, run.workdir / DETECTOR_FILE)
            if to_test is None:
                return None
            figures = measure(dataclasses.replace(detector, options=options), to_test, run, saved)
            provenance = folder.provenance() | {"settings": config.to_dict()}
            return _saved_result(run, feature_model.location, figures, training, test, provenance)


def measure_detector(
    config: ConfigDict,
    workdir: str | os.PathLike,
    open_it: Callable[[], Detector],
    location: str,
    command: str = "",
) -> EvaluationResult | None:
    """Propose regions, and test a trained detector as the config says.

    Args:
        config: see `configs/detect/base.py`; its `data` is only looked at for the classes.
        workdir: the run's folder. In the end it holds `evaluation.json` and `results/` (see `measure`).
        open_it: opens the detector; called once TensorFlow's devices are set up.
        location: of the detector, for the result.
        command: the command line, for the result.

    Returns, Raises:
        As `voc_detection`; ValueError also where the classes are not the detector's.
    """
    run = start_run(in_epochs(config), workdir, command)
    options, saved = detection_options(config.test)
    detector = open_it()
    digest = hashlib.sha256(json.dumps(detector.facts()).encode())
    digest_weights(digest, detector.model)
    owner = {
        **config.to_dict(),
        "protocol": PROTOCOL,
        "model": absolute_location(location),
        "model_fingerprint": digest.hexdigest(),
    }
    with run.hold_folder(owner) as folder:
        training = open_annotated(config.data, difficult=config.regions.get("learn_difficult", False))
        if training.class_names != detector.class_names:
            raise ValueError(
                f"The detector {location} is of other classes than `data`: "
                f"{', '.join(detector.class_names)}; {', '.join(training.class_names or ())}"
            )
        test = open_annotated(config.validation, training.class_names)
        if run.worker:
            return None
        to_test = _proposed(run, test, config.validation)
        folder.claim()
        figures = measure(dataclasses.replace(detector, options=options), to_test, run, saved)
        provenance = folder.provenance() | {"settings": config.to_dict()}
        return _saved_result(run, location, figures, training, test, provenance)


def _proposed(run: Run, source: VocSource, given: ConfigDict) -> ProposedImages:
    orientation = bool(given.get("exif_orientation", False))
    boxes = find_proposals(run.config.proposals, source, run.cache, orientation)
    return ProposedImages(source, boxes, orientation)


def _saved_result(
    run: Run,
    location: str,
    figures: MultiLabelFigures,
    training: VocSource,
    test: VocSource,
    provenance: dict,
) -> EvaluationResult:
    result = EvaluationResult(
        protocol=PROTOCOL,
        model=location,
        figures={"Fast R-CNN": figures},
        class_names=list(training.class_names or ()),
        class_counts=[int(count) for count in (training.targets == 1).sum(axis=0)],
        test_images=len(test),
        notes=[note for source in (training, test) if (note := clipping_note(source))],
        **provenance,
    )
    save_result(result, run.workdir)
    return result


def in_epochs(config: ConfigDict) -> ConfigDict:
    """The config with `epochs`, each of `log_steps` steps; ValueError where a field of the run is off."""
    if config.log_steps < 1 or config.steps < 1 or config.steps % config.log_steps:
        raise ValueError(
            "`steps` must be a positive multiple of `log_steps`. "
            f"Received: steps={config.steps}, log_steps={config.log_steps}"
        )
    if config.batch_size < 1 or config.regions.count < 1 or config.regions.count % config.batch_size:
        raise ValueError(
            "`regions.count` must be a positive multiple of `batch_size`. "
            f"Received: regions.count={config.regions.count}, batch_size={config.batch_size}"
        )
    found = ConfigDict({**config, "epochs": config.steps // config.log_steps})
    check_run_values(found)
    return found


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


def train_detector(
    run: Run,
    images: ProposedImages,
    feature_model: KerasFeatureModel,
    ready: Callable[[], None],
) -> FastRCNN:
    """A `FastRCNN` that begins as a pretrained network. What `fit` calls an epoch is `log_steps` steps here.

    Args:
        run: of a config as `configs/detect/base.py`, with `epochs` (`in_epochs`).
        images: to learn from.
        feature_model: of the pretrained network.
        ready: as in `runs.fit`.
    """
    config, source = run.config, images.source
    epochs = math.ceil(config.steps / steps_per_epoch(len(source), config.batch_size))
    image_set = ImageSet(source, feature_model.info.preprocessing, np.arange(len(source)), [])
    matched = zip(images.proposals, source.annotations, strict=True)
    learn_difficult = config.regions.get("learn_difficult", False)
    exclusive = config.detector.get("exclusive_deltas", False)
    regions = [match_regions(*found, learn_difficult, exclusive) for found in matched]
    check_same_on_all_workers(image_set, run.strategy)
    options = BatchOptions(
        config.regions.count // config.batch_size,
        config.regions.foreground_share,
        tuple(config.scales),
        config.longest,
        images.exif_orientation,
    )
    logging.info(
        "%d images to learn from, with %d objects and %d regions",
        len(source),
        sum(len(annotation.labels) for annotation in source.annotations),
        sum(len(found.boxes) for found in regions),
    )

    def build(_synchronized: bool, _resumed: bool) -> FastRCNN:
        model = build_detector(config, feature_model.model, source.num_classes)
        model.set_delta_statistics(*delta_statistics(regions, source.num_classes))
        # Images differ in size, and XLA would compile anew for each.
        model.compile(build_optimizer(config, model), jit_compile=False)
        return model

    def batches(start_step: int, _epochs: int):
        def make(share: distribution.Share):
            schedule = Schedule(image_set.valid, config.seed, config.batch_size, epochs, start_step, share)
            return detection_batches(source, regions, image_set.preprocessing, schedule, options)

        return distribution.distribute_dataset(run.strategy, make)

    training = Training(
        num_examples=config.log_steps * config.batch_size,
        build_model=build,
        batches=batches,
        name_bad_image=partial(name_bad_image, config, image_set, None),
    )
    return fit(run, training, ready)


def build_detector(config: ConfigDict, network: keras.Model, num_classes: int) -> FastRCNN:
    """A detector that begins as the pretrained network; to be called under the strategy's scope.

    Args:
        config: the run's, see `configs/detect/base.py`.
        network: functional, with a dict of outputs, `detector.feature` among them. It is not changed.
        num_classes: without the background.

    Raises:
        ValueError: if the network does not fit the config.
    """
    options = config.detector
    # The batch norms of fc6 and fc7 are folded in any case: a detector's dense layers have none.
    normalized = any(isinstance(layer, layers.BatchNormalization) for layer in network.layers)
    folded = fold_batch_norm(network) if options.fold_batch_norm and normalized else network
    trunk = any_size(folded, options.feature, options.get("ceil_pools", False))
    _freeze(trunk, options.frozen)
    model = FastRCNN(
        trunk,
        num_classes,
        pool=RoIMaxPool(options.pool_size, options.stride),
        dense_width=options.dense_width,
        dropout=options.dropout,
        exclusive_deltas=options.get("exclusive_deltas", False),
    )
    for name, longest in (("longest", config.longest), ("test.longest", config.test.longest)):
        if longest > model.longest_side:
            raise ValueError(
                f"`{name}` must be {model.longest_side} pixels at most, which the region pooling covers: "
                f"{longest}"
            )
    if options.pretrained_dense:
        _copy_dense(network, model)
    return model


def _freeze(trunk: keras.Model, last: str) -> None:
    """Freezes the layers up to the one called `last`."""
    if not last:
        return
    if last not in [layer.name for layer in trunk.layers]:
        raise ValueError(f"`detector.frozen`: {trunk.name!r} has no map {last!r} before its output")
    for layer in keras.Model(trunk.inputs[0], trunk.get_layer(last).output).layers:
        layer.trainable = False


def _copy_dense(network: keras.Model, model: FastRCNN) -> None:
    """Initialises the detector's fc6 and fc7 with the network's weights."""
    shape = tuple(model.head.input_shape[1:])
    own = dense_weights(network, shape)
    if own is None:
        raise ValueError(
            f"`detector.pretrained_dense`: {network.name!r} has no fc6 on a map of {shape} with fc7 behind "
            "it; see `detector.pool_size`"
        )
    for name, weights in zip(("fc6", "fc7"), own, strict=True):
        if len(weights[1]) != model.dense_width:
            raise ValueError(
                f"`detector.pretrained_dense`: {name} of {network.name!r} has {len(weights[1])} units. "
                f"Received: detector.dense_width={model.dense_width}"
            )
        model.head.get_layer(name).set_weights(weights)


def build_optimizer(config: ConfigDict, model: FastRCNN) -> CoupledSGD:
    """SGD by steps, built for the model: biases learn at a rate of their own, without decay.

    Reference: Girshick, ICCV 2015, section 2.3 (Caffe's `lr_mult: 2`, `decay_mult: 0`).
    """
    optimizer = build.build_optimizer(config.optimizer, steps_per_epoch=1)
    optimizer.build(model.trainable_variables)
    biases = [variable for variable in model.trainable_variables if variable.path.endswith("/bias")]
    optimizer.scale_rates(biases, config.optimizer.bias_rate)
    optimizer.exclude_from_weight_decay(biases)
    return optimizer


def measure(
    detector: Detector, images: ProposedImages, run: Run, saved: DetectionOptions
) -> MultiLabelFigures:
    """Detect in the images, compare with their annotations, and write `results/` in the run's folder.

    It holds VOC's result files (`comp4_det_SPLIT_CLASS.txt`), COCO's JSON (`coco.json`), tables by class
    (`table.md`), precision over recall (`precision_recall.png`), and images with detections drawn. VOC's
    figures are of its files, also where `test.round_results` rounds them (see `rounded`).

    Args:
        detector: with the options of the test.
        images: to test on.
        run: its config says how to test and what to draw; its cache keeps the detections so far.
        saved: options of the saved detector, which differ from the test's in `score` and `most` only: COCO's
            file and figures are of what it finds.

    Returns:
        Average precision by both rules; `extra` has COCO's figures.

    Raises:
        DetectionStopped, ValueError: as `detect_images` and `limit_average`.
    """
    source, config, class_names = images.source, run.config, detector.class_names
    round_results = config.test.get("round_results", False)
    annotations = dict(zip(source.names, source.annotations, strict=True))
    found = detect_images(detector, source.names, images.read, images.proposals, run.cache / "detections")
    kept = limit_average(found, config.test.get("average_of_class", 0))
    if round_results:
        kept = {name: rounded(of) for name, of in kept.items()}
    figures = evaluate_detections(kept, annotations, class_names)
    found = {name: chosen(of, of.scores >= saved.score) for name, of in found.items()}
    found = {name: chosen(of, slice(saved.most or None)) for name, of in found.items()}
    coco = coco_figures(found, annotations, class_names)

    folder = run.workdir / RESULTS
    write_voc_results(folder, kept, class_names, config.validation.split, round_results)
    write_coco_results(folder / "coco.json", found)
    write_text(folder / "table.md", f"{figures.table()}\n\n{coco.table()}\n")
    draw_precision_recall(figures, folder / "precision_recall.png")
    for index, name in enumerate(source.names[: config.draw]):
        path = folder / DRAWINGS / f"{name}.png"
        draw_detections(path, images.read(index), found[name], class_names, annotations[name], DRAWN_SCORE)
    precisions = np.array([figures.average_precisions(rule) for rule in RULES])
    extra = {"coco_map": coco.ap, "coco_50_map": coco.ap_50, "coco_75_map": coco.ap_75}
    return figures_of(precisions, {name: value for name, value in extra.items() if not np.isnan(value)})
