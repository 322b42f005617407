"""Computing a report: reads a run's folder, or takes a model, and passes some images through the network."""

import dataclasses
import datetime
from collections import defaultdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from rfd_tf.callbacks import signs_of_collapse
from rfd_tf.data import Source
from rfd_tf.data.image_folder import left_out_text
from rfd_tf.evaluation.evaluate import untrained_control, untrained_copy
from rfd_tf.evaluation.results import EvaluationResult
from rfd_tf.features import FeatureModel, KerasFeatureModel, open_keras
from rfd_tf.imbalance import class_counts_of
from rfd_tf.models import first_layer_filters
from rfd_tf.models.inference import FEATURES, ROTATION_PROBABILITIES
from rfd_tf.report.figures import (
    KNN,
    ClassifierSection,
    KeyFigure,
    choose_classifier,
    control_knn_accuracy,
    has_control,
    key_figures,
    knn_section,
    read_evaluations,
)
from rfd_tf.report.sample import Sample, take_sample
from rfd_tf.report.sections import (
    MapSection,
    NeighbourSection,
    RotationSection,
    feature_map,
    neighbour_section,
    rotation_section,
)
from rfd_tf.runs import provenance
from rfd_tf.runs.build import measured_feature
from rfd_tf.runs.images import ImageSet, open_run_images
from rfd_tf.runs.workdir import BACKBONE_FILE, HISTORY_FILE, read_history, read_run_config

TRAINING, VALIDATION = "training", "validation"
_NEIGHBOURS, _TEMPERATURE = 20, 0.07  # of the kNN of a model alone
UNREADABLE = (OSError, ValueError, ImportError, tf.errors.OpError)  # what images that have moved can raise


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Images of a run: their part in it, where they are, how many (None where they cannot be opened)."""

    role: str
    location: str
    images: int | None
    classes: int | None
    skipped: int
    left_out: str = ""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What was trained, on what, when.

    Attributes:
        name, workdir: of the run's folder, or of the model.
        finished: when the backbone was written; None for a model alone.
        network: the backbone's name.
        parameters: of backbone and heads.
        feature, feature_width: the feature that sections on features are about, and its length.
        data: the run's images.
        config: the whole config.
    """

    name: str
    workdir: str
    finished: datetime.datetime | None
    network: str
    parameters: int
    feature: str
    feature_width: int
    data: list[DataFacts]
    config: dict


@dataclasses.dataclass(frozen=True)
class RunReport:
    """A whole report; a part that could not be made is None, and `notes` say why.

    Attributes:
        facts: see there.
        key_figures: the headline.
        history: columns of the CSV history.
        filters: first-layer filters, float32 [kh, kw, in, out].
        rotations, neighbours, classifier, feature_map: see there.
        evaluations: every result found, by name of its folder.
        notes: section -> sentences about what is missing there.
        sample: the images that the map shows, with their features.
        machine, versions: where and by what the report was made.
    """

    facts: RunFacts
    key_figures: list[KeyFigure]
    history: dict[str, np.ndarray] | None
    filters: np.ndarray | None
    rotations: RotationSection | None
    neighbours: NeighbourSection | None
    classifier: ClassifierSection | None
    feature_map: MapSection | None
    evaluations: dict[str, EvaluationResult]
    notes: dict[str, list[str]]
    sample: Sample | None
    machine: dict[str, str]
    versions: dict[str, str]


@dataclasses.dataclass
class OpenedRun:
    """A finished run, or a model alone, with those of its images that can be opened.

    Attributes:
        workdir: the run's folder; None for a model alone.
        config: the run's; of a model alone, `knn`.
        feature_model: the network.
        feature: the backbone's feature that is looked at: the one its kNN accuracy is measured on.
        output: the feature model's name for it.
        images: role -> images: `"training"`, then `"validation"` if there are any.
        problem: why images are missing; None where they are not.
    """

    workdir: Path | None
    config: ConfigDict
    feature_model: KerasFeatureModel
    feature: str
    output: str
    images: dict[str, ImageSet]
    problem: str | None

    def facts(self) -> RunFacts:
        """What was trained, on what, when."""
        model = self.feature_model
        shared = {
            "parameters": model.model.count_params(),
            "feature": self.feature,
            "feature_width": model.info.outputs[self.output][-1],
        }
        if self.workdir is None:
            return RunFacts(
                name=model.info.name,
                workdir=model.location,
                finished=None,
                network=model.info.name,
                data=[_source_facts(role, found.source.name, found) for role, found in self.images.items()],
                config={"preprocessing": dataclasses.asdict(model.info.preprocessing)},
                **shared,
            )
        roles = {TRAINING: self.config.data}
        if self.config.validation.source:
            roles[VALIDATION] = self.config.validation
        finished = (self.workdir / BACKBONE_FILE).stat().st_mtime
        folder = self.workdir.resolve()
        return RunFacts(
            name=folder.name,
            workdir=str(folder),
            finished=datetime.datetime.fromtimestamp(finished, datetime.UTC),
            network=self.config.backbone.name,
            data=[_data_facts(role, given, self.images.get(role)) for role, given in roles.items()],
            config=self.config.to_dict(),
            **shared,
        )

    def untrained(self, images: ImageSet) -> keras.Model:
        """The network as it was before its training, or might have been, with batch norms of `images`."""
        if self.workdir is None:
            return untrained_copy(self.feature_model.model, images)
        return untrained_control(self.config, images)


def model_alone(feature_model: FeatureModel, training: Source, validation: Source | None = None) -> OpenedRun:
    """A model, as a report takes it, with images that its features are looked at on.

    Args:
        feature_model: with the output `features`; a Keras model.
        training: images to look for neighbours among.
        validation: further images, the ones that are shown; None for the same.

    Raises:
        ValueError: if it is not there in its Keras form.
    """
    if not isinstance(feature_model, KerasFeatureModel):
        raise ValueError(
            "A report takes a Keras model: a run's folder, a .keras file or zoo:NAME. "
            f"Received: {feature_model.location}"
        )
    sources = {TRAINING: training} | ({VALIDATION: validation} if validation is not None else {})
    prepared = feature_model.info.preprocessing
    images = {
        role: ImageSet(source, prepared, np.arange(len(source)), []) for role, source in sources.items()
    }
    config = ConfigDict({"knn": {"k": _NEIGHBOURS, "temperature": _TEMPERATURE}})
    return OpenedRun(None, config, feature_model, FEATURES, FEATURES, images, None)


def open_run(workdir: Path) -> OpenedRun:
    """Opens a finished run.

    Raises:
        FileNotFoundError: if the folder is not a run, or one that has not finished.
        ValueError: if its config or network cannot be read.
    """
    config = read_run_config(workdir, "knn")
    feature = measured_feature(config)
    main = config.backbone.feature
    feature_model = open_keras(workdir, [] if feature == main else [feature])
    images, problem = _open_images(config, workdir)
    output = FEATURES if feature == main else feature
    return OpenedRun(workdir, config, feature_model, feature, output, images, problem)


def _open_images(config: ConfigDict, workdir: Path) -> tuple[dict[str, ImageSet], str | None]:
    """The images that can be opened: all, or those of training, or none; and what the problem is."""
    try:
        opened = open_run_images(config, workdir)
        problem = None
    except UNREADABLE as error:
        problem = str(error)
        alone = ConfigDict(config.to_dict())
        alone.validation.source = ""
        try:
            opened = open_run_images(alone, workdir)
        except UNREADABLE as training_error:
            return {}, f"The images of the run cannot be opened: {training_error}"
        problem = f"The validation images cannot be opened: {problem}"
    return {role: found for role, found in zip((TRAINING, VALIDATION), opened, strict=True) if found}, problem


def _data_facts(role: str, given: ConfigDict, images: ImageSet | None) -> DataFacts:
    place = " ".join(filter(None, (given.source, given.name, given.root)))
    if given.split:
        place += f" (split {given.split})"
    tail = given.get("long_tail")
    if tail and tail.profile:
        place += f", long-tailed: {tail.profile}, ratio {tail.ratio:g}"
    return _source_facts(role, place, images)


def _source_facts(role: str, place: str, images: ImageSet | None) -> DataFacts:
    if images is None:
        return DataFacts(role, place, None, None, 0)
    source = images.source
    left_out = left_out_text(source.left_out)
    return DataFacts(role, place, len(images.valid), source.num_classes, len(images.skipped), left_out)


_VIEWED_SHARE = 4  # every so many images are shown four times, so that no more views than images pass
_OF_IMAGES = ("rotations", "neighbours", "map")  # sections that need some


def collect_report(run: OpenedRun | Path, max_images: int = 1000, control: bool = True) -> RunReport:
    """Everything that the report of a finished run, or of a model alone, shows.

    Args:
        run: the run's folder, or `model_alone(...)`.
        max_images: images of each source, training and validation, to pass through the network.
        control: whether to measure an untrained control, too, where there are labels.

    Returns:
        The report. What cannot be made (images have moved, there are no labels) is None in it, with a note.

    Raises:
        FileNotFoundError: if the folder is not a run, or one that has not finished.
        ValueError: if its config or network cannot be read, or on `max_images` below 1.
    """
    if max_images < 1:
        raise ValueError(f"`max_images` must be at least 1. Received: max_images={max_images}")
    opened = run if isinstance(run, OpenedRun) else open_run(run)
    return _Collection(opened, max_images).report(control)


class _Collection:
    """The work for one report; `notes` gather what is missing."""

    def __init__(self, run: OpenedRun, max_images: int):
        self.run = run
        self.max_images = max_images
        self.notes: dict[str, list[str]] = defaultdict(list)
        if run.problem:
            self._note("images", run.problem)

    def report(self, control: bool) -> RunReport:
        run = self.run
        history = None
        if run.workdir is None:
            self._note("curves", "Left out: this is a model, not the folder of a run with its history.")
        else:
            history = self._or_note("curves", lambda: read_history(run.workdir / HISTORY_FILE))
        if history is not None:
            last = {name: values[-1] for name, values in history.items()}
            epoch = len(history[next(iter(history))]) - 1
            for sign in signs_of_collapse(last, epoch, run.config.method.loss_weights).values():
                self._note("curves", sign)
        filters = self._or_note("filters", lambda: first_layer_filters(run.feature_model.model))
        evaluations = self._evaluations()
        samples = self._samples()
        counts = self._class_counts()
        shown = list(samples.values())[-1] if samples else None  # validation, where there is any
        classifier, figures = self._figures(history, evaluations, samples, counts, control)
        return RunReport(
            facts=run.facts(),
            key_figures=figures,
            history=history,
            filters=filters,
            rotations=self._rotations(shown),
            neighbours=self._neighbours(samples, counts),
            classifier=classifier,
            feature_map=self._map(shown),
            evaluations=evaluations,
            notes=self.notes,
            sample=shown,
            machine=provenance.machine(),
            versions=provenance.versions(),
        )

    def _evaluations(self) -> dict[str, EvaluationResult]:
        if self.run.workdir is None:
            return {}
        evaluations, problems = read_evaluations(self.run.workdir)
        for problem in problems:
            self._note("evaluations", f"Left out: {problem}")
        return evaluations

    def _figures(
        self, history, evaluations, samples: dict[str, Sample], counts, control: bool
    ) -> tuple[ClassifierSection | None, list[KeyFigure]]:
        """The classifier whose mistakes are shown, and the headline."""
        classifier, knn, knn_control = choose_classifier(evaluations), None, None
        if classifier is None or (control and not has_control(evaluations, KNN)):
            knn, knn_control = self._knn(samples, counts, control)
        classifier = classifier or knn
        if classifier is None:
            self._note(
                "classes",
                "Left out: it needs an evaluation by classes, or labelled images that can be read.",
            )
        figures = key_figures(history, evaluations, knn, knn_control)
        if self.run.workdir is None:  # there is no history that others could be of
            figures = [figure for figure in figures if figure.value is not None]
        return classifier, figures

    def _samples(self) -> dict[str, Sample]:
        """A sample of each of the run's sources that can be read."""
        samples = {}
        run = self.run
        for role, images in run.images.items():
            logging.info("Features of up to %d %s images", self.max_images, role)
            try:
                sample, bad = take_sample(run.feature_model, run.output, images, role, self.max_images)
            except UNREADABLE as error:
                self._note("images", f"The {role} images cannot be used: {error}")
                continue
            samples[role] = sample
            if bad:
                self._note("images", f"{len(bad)} {role} images cannot be read, such as {bad[0]}")
        if not samples:
            for section in _OF_IMAGES:
                self._note(section, "Left out: it needs the run's images, and they cannot be read.")
        return samples

    def _class_counts(self) -> np.ndarray | None:
        """Training images of each class."""
        images = self.run.images.get(TRAINING)
        if images is None or images.source.labels is None:
            return None
        return class_counts_of(images.labels, images.source.num_classes)

    def _knn(self, samples: dict[str, Sample], counts, control: bool):
        """The kNN figures and the control's accuracy; None each where they cannot be had."""
        sets = list(samples.values())
        if TRAINING not in samples or any(sample.labels is None for sample in sets):
            return None, None
        if sets[0].class_names != sets[-1].class_names:
            self._note("classes", "Training and validation images have other classes: no kNN between them.")
            return None, None
        if len(sets[0]) < 2:
            return None, None
        config, feature = self.run.config, self.run.feature
        knn = knn_section(config, sets[0], sets[-1], counts)
        if not control:
            return knn, None
        logging.info("The same of an untrained control")
        pairs = [(self.run.images[sample.source], sample) for sample in sets]
        return knn, control_knn_accuracy(config, feature, self.run.untrained, pairs)

    def _rotations(self, sample: Sample | None):
        if sample is None:
            return None
        if ROTATION_PROBABILITIES not in self.run.feature_model.info.outputs:
            self._note(
                "rotations",
                "Left out: the model has no head that tells rotations."
                if self.run.workdir is None
                else "Left out: the run's folder holds no heads.keras (runs of older versions did not save "
                "it). Starting the finished run's command again writes it.",
            )
            return None
        viewed = -(-self.max_images // _VIEWED_SHARE)
        logging.info("Predicted rotations of up to %d %s images", viewed, sample.source)
        images = self.run.images[sample.source]
        return rotation_section(self.run.feature_model, images, sample, viewed)

    def _neighbours(self, samples: dict[str, Sample], counts):
        if not samples:
            return None
        sets = list(samples.values())
        if sets[0].class_names != sets[-1].class_names:
            counts = None  # a validation label is not a training class
        return self._or_note("neighbours", lambda: neighbour_section(sets[-1], sets[0], counts))

    def _map(self, sample: Sample | None):
        if sample is None:
            return None
        logging.info("Map of the features")
        return self._or_note("map", lambda: feature_map(sample))

    def _or_note(self, section: str, make):
        """`make()`, or None and a note that says why not."""
        try:
            return make()
        except (OSError, ValueError) as error:
            self._note(section, f"Left out: {error}")
            return None

    def _note(self, section: str, sentence: str) -> None:
        logging.warning("%s", sentence)
        self.notes[section].append(sentence)
