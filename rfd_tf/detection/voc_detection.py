"""Training and measuring Fast R-CNN, from a config and a pretrained network to figures."""

import dataclasses
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
from rfd_tf.data import VocSource, clipping_note, steps_per_epoch
from rfd_tf.detection.boxes import delta_statistics, match_regions
from rfd_tf.detection.detector import DETECTOR_FILE, DetectionOptions, Detector, open_detector, save_detector
from rfd_tf.detection.inputs import (
    ProposedImages,
    check_regions,
    check_scales,
    detection_batches,
    find_proposals,
    open_annotated,
)
from rfd_tf.detection.measure import measure
from rfd_tf.evaluation.evaluate import owner_of
from rfd_tf.evaluation.results import EvaluationResult, save_result
from rfd_tf.features import FeatureExtractor, KerasExtractor
from rfd_tf.models import FastRCNN, dense_weights
from rfd_tf.models.backbone import any_size
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.runs import build
from rfd_tf.runs.fit import Training, fit
from rfd_tf.runs.images import ImageSet, check_same_on_all_workers, name_bad_image
from rfd_tf.runs.run import Run, check_run_values, start_run

Fold = Callable[[keras.Model], keras.Model]


def build_detector(
    config: ConfigDict, network: keras.Model, num_classes: int, fold: Fold | None = None
) -> FastRCNN:
    """A detector that begins as the pretrained network does; to be called under the strategy's scope.

    Args:
        config: the run's, see `configs/detect/base.py`.
        network: functional, with a dict of outputs, `detector.feature` among them. It stays as it is.
        num_classes: without the background.
        fold: folds batch norms into the layers before them, such as `zoo.fold_batch_norm`; needed where the
            config asks for it and the network has any. (Those of fc6 and fc7 are folded in any case: a
            detector's dense layers have none.)

    Raises:
        ValueError: if the network does not fit the config.
    """
    options = config.detector
    folded = _folded(network, fold) if options.fold_batch_norm else network
    trunk = any_size(folded, options.feature, options.get("ceil_pools", False))
    _freeze(trunk, options.frozen)
    model = FastRCNN(
        trunk,
        num_classes,
        stride=options.stride,
        pool_size=options.pool_size,
        dense_width=options.dense_width,
        dropout=options.dropout,
        exclusive_deltas=options.get("exclusive_deltas", False),
    )
    _check_sides(model, config)
    if options.pretrained_dense:
        _copy_dense(network, model)
    return model


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


def _folded(network: keras.Model, fold: Fold | None) -> keras.Model:
    if not any(isinstance(layer, layers.BatchNormalization) for layer in network.layers):
        return network
    if fold is None:
        raise ValueError("`detector.fold_batch_norm` needs a function that folds")
    return fold(network)


def _freeze(trunk: keras.Model, last: str) -> None:
    """The layers up to the one called `last` do not learn."""
    if not last:
        return
    names = [layer.name for layer in trunk.layers]
    if last not in names:
        raise ValueError(f"`detector.frozen`: {trunk.name!r} has no map {last!r} before its output")
    for layer in keras.Model(trunk.inputs[0], trunk.get_layer(last).output).layers:
        layer.trainable = False


def _check_sides(model: FastRCNN, config: ConfigDict) -> None:
    """What images will be tested at is known before anything is trained."""
    for name, longest in (("longest", config.longest), ("test.longest", config.test.longest)):
        if longest > model.longest_side:
            raise ValueError(
                f"`{name}` must be {model.longest_side} pixels at most, which the region pooling covers: "
                f"{longest}"
            )


def _copy_dense(network: keras.Model, model: FastRCNN) -> None:
    """fc6 and fc7 of the detector begin as the network's."""
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


def in_epochs(config: ConfigDict) -> ConfigDict:
    """The config with `epochs`, each of `log_steps` steps; ValueError where a field of the run is off."""
    if config.log_steps < 1 or config.steps < 1 or config.steps % config.log_steps:
        raise ValueError(
            "`steps` must be a positive multiple of `log_steps`. "
            f"Received: steps={config.steps}, log_steps={config.log_steps}"
        )
    found = ConfigDict({**config, "epochs": config.steps // config.log_steps})
    check_run_values(found)
    return found


def train_detector(
    run: Run,
    images: ProposedImages,
    extractor: KerasExtractor,
    fold: Fold | None,
    ready: Callable[[], None],
) -> FastRCNN:
    """A `FastRCNN` that begins as a pretrained network. What `fit` calls an epoch is `log_steps` steps here.

    Args:
        run: of a config as `configs/detect/base.py`, with `epochs` (`in_epochs`).
        images: to learn from.
        extractor: of the pretrained network.
        fold: as of `build_detector`.
        ready: as of `runs.fit`.
    """
    config, source = run.config, images.source
    image_set = ImageSet(source, extractor.info.preprocessing, np.arange(len(source)), [])
    matched = zip(images.proposals, source.annotations, strict=True)
    learn_difficult = config.regions.get("learn_difficult", False)
    exclusive = config.detector.get("exclusive_deltas", False)
    regions = [match_regions(*found, learn_difficult, exclusive) for found in matched]
    passes = math.ceil(config.steps / steps_per_epoch(len(source), config.batch_size))
    check_same_on_all_workers(image_set, run.strategy)
    check_regions(config.batch_size, config.regions.count, config.regions.foreground_share)
    check_scales(config.scales, config.longest)
    logging.info(
        "%d images to learn from, with %d objects and %d regions",
        len(source),
        sum(len(annotation.labels) for annotation in source.annotations),
        sum(len(found.boxes) for found in regions),
    )

    def build(_synchronized: bool, _resumed: bool) -> FastRCNN:
        num_classes = source.num_classes
        model = build_detector(config, extractor.model, num_classes, fold)
        model.set_delta_statistics(*delta_statistics(regions, num_classes))
        # Images differ in size, and XLA would compile anew for each.
        model.compile(build_optimizer(config, model), jit_compile=False)
        return model

    def batches(start_step: int, _epochs: int):
        def make(share: distribution.Share):
            return detection_batches(
                source,
                regions,
                image_set.preprocessing,
                seed=config.seed,
                epochs=passes,
                start_step=start_step,
                batch_size=config.batch_size,
                num_regions=config.regions.count,
                foreground_share=config.regions.foreground_share,
                scales=tuple(config.scales),
                longest=config.longest,
                exif_orientation=images.exif_orientation,
                share=share,
            )

        return distribution.distribute_dataset(run.strategy, make)

    training = Training(
        num_examples=config.log_steps * config.batch_size,
        build_model=build,
        batches=batches,
        name_bad_image=partial(name_bad_image, config, image_set, None),
    )
    return fit(run, training, ready)


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
        config: see `configs/detect/base.py`.
        workdir: the run's folder. It ends with `detector.keras` (see `open_detector`), `history.csv`,
            `checkpoints/`, `evaluation.json`, and `results/` (see `measure`). Workers other than the first
            keep theirs in `workdir/worker-N`, and do not test.
        open_model: opens the pretrained network; called once TensorFlow's devices are set up.
        fold: as of `detection.assembly.build_detector`.
        command: the command line, for the result.

    Returns:
        The figures of the test images; None on workers other than the first.

    Raises:
        WorkdirError: if the folder holds another run.
        BadImageError, VocError, ProposalError: on data that cannot be used; they name it.
        NonFiniteLossError: when a loss is no longer finite; the last checkpoint is from before.
        Stopped: on SIGTERM or Ctrl-C; what was done is kept.
        ValueError: on a config out of range, or a network that does not fit it.
    """
    run = start_run(in_epochs(config), workdir, command)
    options, saved = detection_options(config.test)
    with open_model() as extractor:
        if not isinstance(extractor, KerasExtractor):
            raise ValueError(
                "A detector begins as a Keras model: a run's folder, a .keras file or zoo:NAME. "
                f"Received: {extractor.location}"
            )
        with run.hold_folder(owner_of(PROTOCOL, config, extractor)) as folder:
            learn_difficult = config.regions.get("learn_difficult", False)
            training = open_annotated(config.data, difficult=learn_difficult)
            test = open_annotated(config.validation, training.class_names)

            def proposed(source: VocSource, given: ConfigDict) -> ProposedImages:
                orientation = bool(given.get("exif_orientation", False))
                boxes = find_proposals(config.proposals, source, run.cache, orientation)
                return ProposedImages(source, boxes, orientation)

            # Before training, lest that be lost.
            to_test = None if run.worker else proposed(test, config.validation)
            if (run.workdir / DETECTOR_FILE).exists():
                detector = open_detector(run.workdir)
            else:
                images = proposed(training, config.data)
                model = train_detector(run, images, extractor, fold, folder.claim)
                detector = _saved(run, model, images, extractor, saved)
            if to_test is None:
                return None
            figures = measure(
                dataclasses.replace(detector, options=options),
                to_test,
                run.workdir,
                config.validation.split,
                config.draw,
                average_of_class=config.test.get("average_of_class", 0),
                round_results=config.test.get("round_results", False),
                saved=saved,
            )
            facts = folder.provenance() | {"settings": config.to_dict()}
            result = EvaluationResult(
                protocol=PROTOCOL,
                model=extractor.location,
                figures={"Fast R-CNN": figures},
                class_names=list(training.class_names or ()),
                class_counts=[int(count) for count in (training.targets == 1).sum(axis=0)],
                test_images=len(test),
                notes=[note for source in (training, test) if (note := clipping_note(source))],
                **facts,
            )
            save_result(result, run.workdir)
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


def _saved(
    run: Run, model: FastRCNN, images: ProposedImages, extractor: KerasExtractor, options: DetectionOptions
) -> Detector:
    """The detector, written by the first worker."""
    info = extractor.info
    prepared = info.preprocessing
    detector = Detector(
        model,
        images.source.class_names or (),
        prepared.mean,
        prepared.std,
        options,
        info.name,
        images.exif_orientation,
    )
    if not run.worker:
        save_detector(detector, run.workdir / DETECTOR_FILE)
    return detector
