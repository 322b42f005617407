"""What every protocol is given: a model, and images with labels; and what is made of its figures."""

import dataclasses
import os
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from rfd_tf.data import VOC_SOURCES, Preprocessing, clipping_note
from rfd_tf.data.keras_augmentation import MIXED
from rfd_tf.evaluation.results import EvaluationResult, Figures, save_result
from rfd_tf.features import FeatureModel
from rfd_tf.files import absolute_location
from rfd_tf.imbalance import class_counts_of, rows_by_class
from rfd_tf.rotations import NUM_ROTATIONS
from rfd_tf.runs.images import ImageSet, list_skipped, open_image_set
from rfd_tf.runs.run import Run, start_run

CLASSES, ROTATIONS, MULTI_LABEL = LABELS = ("classes", "rotations", "multi_label")


ROTATION_NAMES = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An evaluation that is about to begin.

    Attributes:
        run: of a config as `configs/evaluate/base.py`.
        feature_model: the model.
        training: images to learn from; `valid` are those whose labels may be used; their `preprocessing`
            augments. `labels` or, of VOC's sources, `targets` are theirs.
        test: images to measure on, prepared as the model says.
        class_names: names of the C classes to tell apart.
        class_counts: [C] training images of each.
    """

    run: Run
    feature_model: FeatureModel
    training: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    class_counts: np.ndarray

    @property
    def config(self) -> ConfigDict:
        """The run's."""
        return self.run.config


def measured(
    name: str,
    measure: Callable[[Experiment], Mapping[str, Figures]],
    config: ConfigDict,
    workdir: str | os.PathLike,
    open_model: Callable[[], FeatureModel],
    command: str = "",
    labels: str = CLASSES,
) -> EvaluationResult:
    """What `measure` finds of a model, with the circumstances, saved; the rest as of `evaluate`.

    Args:
        name: of what is done.
        measure: does it, and gives the figures by classifier.
        labels: what is told apart, one of `LABELS`.
    """
    _check_augment(name, config)
    run = start_run(config, workdir, command)
    with open_model() as feature_model, run.hold_folder(owner_of(name, config, feature_model)) as folder:
        experiment = open_experiment(run, feature_model, labels)
        folder.claim()
        try:
            figures = measure(experiment)
        finally:
            list_skipped(experiment.training, experiment.test)
        images = (experiment.training, experiment.test)
        result = EvaluationResult(
            protocol=name,
            model=feature_model.location,
            figures=dict(figures),
            class_names=list(experiment.class_names),
            class_counts=[int(count) for count in experiment.class_counts],
            test_images=len(experiment.test.valid),
            notes=[note for part in images if (note := clipping_note(part.source))],
            **folder.provenance(),
        )
        if not run.worker:
            save_result(result, run.workdir)
        return result


def _check_augment(protocol: str, config: ConfigDict) -> None:
    """Raise ValueError where `preprocessing.augment` would have no effect, or mix what cannot be mixed."""
    augment = tuple(config.preprocessing.augment)
    received = f"Received: augment={augment}"
    svm = protocol == "voc_classification" and config.get("voc", {}).get("method") in ("svm", "low_shot_svm")
    if augment and (protocol in ("knn", "logistic", "rotation") or config.get("input") == "cached" or svm):
        raise ValueError(
            "`preprocessing.augment` is for what trains on images: `rfd train`, probes and fine-tuning of "
            f"`rfd evaluate` with input='images'. {received}, where features are computed once"
        )
    if not any(name in MIXED for name in augment):
        return
    if protocol == "voc_classification":
        raise ValueError(f"`preprocessing.augment` mixes images of one class each, not VOC's. {received}")
    if config.finetune.localized_rotation:
        raise ValueError(
            "`preprocessing.augment` must not mix images with `finetune.localized_rotation`: how a patch was "
            f"rotated could not be told. {received}"
        )
    if config.strategy == "multi_worker":
        raise ValueError(
            "`preprocessing.augment` mixes the images of a whole batch, of which each worker has a part: use "
            f"strategy='mirrored' or 'one_device'. {received}"
        )


def owner_of(protocol: str, config: ConfigDict, feature_model: FeatureModel) -> dict:
    """What an evaluation's folder belongs to."""
    return {
        **config.to_dict(),
        "protocol": protocol,
        "model": absolute_location(feature_model.location),
        "model_fingerprint": feature_model.fingerprint,
    }


def open_experiment(run: Run, feature_model: FeatureModel, labels: str = CLASSES) -> Experiment:
    """Open the images of an evaluation.

    Args:
        run, feature_model: the experiment's.
        labels: `"classes"`: each image's one class; `"rotations"`: the four rotations; then images need
            no labels; `"multi_label"`: the classes of a source with `targets`, any number in an image.

    Raises:
        ValueError: on missing labels, test classes that training does not have, or a field out of range.
        BadImageError, FileNotFoundError: those of the sources.
    """
    config, cache = run.config, run.cache
    prepared = feature_model.info.preprocessing
    training = open_image_set(
        config.data, training_preprocessing(config, prepared), cache / "skipped_training.json"
    )
    if not config.validation.source:
        raise ValueError("`validation.source` is empty: there is nothing to measure on")
    # What is in VOC's format has the same classes in both, in the same order.
    shared = config.data.source in VOC_SOURCES and config.validation.source in VOC_SOURCES
    classes = training.source.class_names or () if shared else ()
    test = open_image_set(config.validation, prepared, cache / "skipped_validation.json", classes)
    training.valid = labelled_fraction(
        training.source.labels, training.valid, config.label_fraction, config.label_seed
    )
    if labels == ROTATIONS:
        training.valid = _evenly_chosen(training.valid, config.rotation.training_images)
        names, counts = ROTATION_NAMES, np.full(NUM_ROTATIONS, len(training.valid))
    elif labels == MULTI_LABEL:
        names, counts = _classes_of_targets(training, test)
    else:
        names, counts = _classes(training, test)
    return Experiment(run, feature_model, training, test, names, counts)


def training_preprocessing(config: ConfigDict, prepared: Preprocessing) -> Preprocessing:
    """The augmentation of training images: the config's, for a model whose images are `prepared` so."""
    wanted = config.preprocessing
    sees_center = prepared.train in ("random_resized_crop", "random_crop")
    train = wanted.train or ("random_crop" if sees_center else prepared.train)
    if train == "random_crop" and not sees_center and not wanted.resize:
        raise ValueError(
            "The model sees whole images, not their centre: `preprocessing.train='random_crop'` needs a "
            "`preprocessing.resize`"
        )
    areas = {name: wanted[name] for name in ("min_area", "max_area") if wanted.get(name)}
    return dataclasses.replace(
        prepared,
        train=train,
        resize=wanted.resize or prepared.resize,
        flip=wanted.flip and prepared.flip,
        color_jitter=tuple(wanted.color_jitter),  # whatever the model's pretraining did
        color_jitter_probability=wanted.color_jitter_probability,
        grayscale=wanted.grayscale,
        blur=wanted.blur,
        augment=tuple(wanted.augment),
        rand_augment_ops=wanted.rand_augment_ops,
        rand_augment_magnitude=wanted.rand_augment_magnitude,
        mixup_alpha=wanted.mixup_alpha,
        **areas,
    )


def labelled_fraction(
    labels: np.ndarray | None, valid: np.ndarray, fraction: float, seed: int = 0
) -> np.ndarray:
    """A share of the images at `valid`, the same of each class, but at least one image each.

    With one seed a smaller share is part of a larger one.

    Args:
        labels: int64 [N], of all images; None takes the share of all together.
        valid: int64 indices of the images to choose from.
        fraction: in (0, 1].
        seed: which images, not negative.

    Returns:
        The chosen ones of `valid`, ascending.

    Raises:
        ValueError: if `fraction` or `seed` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`label_fraction` must be in (0, 1]. Received: label_fraction={fraction}")
    if seed < 0:
        raise ValueError(f"`label_seed` must not be negative. Received: label_seed={seed}")
    if fraction == 1:
        return np.sort(valid)
    classes = np.zeros(len(valid), "int64") if labels is None else labels[valid]
    chosen = []
    for label, places in enumerate(rows_by_class(classes, int(classes.max(initial=0)) + 1)):
        if not len(places):
            continue
        rows = valid[places]
        # A stream for each class: what one class has does not change the choice in another.
        order = np.random.default_rng([seed, label]).permutation(len(rows))
        chosen.append(rows[order[: max(1, round(fraction * len(rows)))]])
    return np.sort(np.concatenate(chosen))


def _evenly_chosen(indices: np.ndarray, count: int) -> np.ndarray:
    """`count` of `indices`; all where `count` is 0 or more than there are."""
    if count < 0:
        raise ValueError(f"`rotation.training_images` must not be negative. Received: {count}")
    if count == 0 or count >= len(indices):
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).astype("int64")]


def _classes_of_targets(training: ImageSet, test: ImageSet) -> tuple[tuple[str, ...], np.ndarray]:
    for what, images in (("training", training), ("test", test)):
        if not hasattr(images.source, "targets"):
            raise ValueError(
                f"The {what} images ({images.source.name}) have no multi-label targets: their `source` "
                f"must be one of {', '.join(VOC_SOURCES)}"
            )
    return training.source.class_names or (), (training.targets == 1).sum(axis=0)


def _classes(training: ImageSet, test: ImageSet) -> tuple[tuple[str, ...], np.ndarray]:
    for what, images in (("training", training), ("test", test)):
        if images.source.labels is None:
            raise ValueError(f"The {what} images ({images.source.name}) have no labels")
    num_classes = training.source.num_classes
    names = training.source.class_names or tuple(map(str, range(num_classes)))
    _give_test_the_classes_of_training(test, training)
    largest = int(test.labels.max())
    if largest >= num_classes:
        raise ValueError(f"Training has {num_classes} classes; the test images have a label {largest}")
    return names, class_counts_of(training.labels, num_classes)


def _give_test_the_classes_of_training(test: ImageSet, training: ImageSet) -> None:
    """Where both have names, a class is what bears its name: a folder may lack some classes."""
    own, common = test.source.class_names, training.source.class_names
    if own is None or common is None or own == common:
        return
    if strangers := [name for name in own if name not in common]:
        raise ValueError(
            f"The test images have a class {strangers[0]!r} that the training images do not have "
            f"({', '.join(common[:10])}{', ...' if len(common) > 10 else ''})"
        )
    numbers = np.array([common.index(name) for name in own])
    test.source.labels, test.source.class_names = numbers[test.source.labels], common
