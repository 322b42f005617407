"""Computing a report: reads a run's folder and passes some of its pictures through the network."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from absl import logging

from rfd_tf.callbacks import signs_of_collapse
from rfd_tf.evaluation.results import EvaluationResult
from rfd_tf.imbalance import class_counts_of
from rfd_tf.models import first_layer_filters
from rfd_tf.models.feature_model import ROTATION_PROBABILITIES
from rfd_tf.report.contents import ClassifierSection, KeyFigure, RunReport
from rfd_tf.report.evaluations import KNN, choose_classifier, has_control, read_evaluations
from rfd_tf.report.feature_map import feature_map
from rfd_tf.report.key_figures import key_figures
from rfd_tf.report.neighbours import neighbour_section
from rfd_tf.report.opened_run import TRAINING, UNREADABLE, OpenedRun, open_run
from rfd_tf.report.quick_knn import control_knn_accuracy, knn_section
from rfd_tf.report.rotated_views import rotation_section
from rfd_tf.report.sample import Sample, take_sample
from rfd_tf.runs import provenance
from rfd_tf.runs.workdir import read_history

_VIEWED_SHARE = 4  # every so many pictures are shown four times, so that no more views than pictures pass
_OF_PICTURES = ("rotations", "neighbours", "map")  # sections that need some


def collect_report(workdir: Path, max_images: int = 1000, control: bool = True) -> RunReport:
    """Everything that the report of a finished run shows.

    Args:
        workdir: the run's folder.
        max_images: pictures of each source, training and validation, to pass through the network.
        control: whether to measure an untrained control, too, where there are labels.

    Returns:
        The report. What cannot be made (pictures have moved, there are no labels) is None in it, with a note.

    Raises:
        FileNotFoundError: if the folder is no run, or one that has not finished.
        ValueError: if its config or network cannot be read, or on `max_images` below 1.
    """
    if max_images < 1:
        raise ValueError(f"`max_images` must be at least 1. Received: max_images={max_images}")
    return _Collection(open_run(workdir), max_images).report(control)


class _Collection:
    """The work for one report; `notes` gather what is missing."""

    def __init__(self, run: OpenedRun, max_images: int):
        self.run = run
        self.max_images = max_images
        self.notes: dict[str, list[str]] = defaultdict(list)
        if run.problem:
            self._note("pictures", run.problem)

    def report(self, control: bool) -> RunReport:
        run = self.run
        history = self._or_note("curves", lambda: read_history(run.workdir / "history.csv"))
        for sign in self._signs_of_collapse(history):
            self._note("curves", sign)
        filters = self._or_note("filters", lambda: first_layer_filters(run.extractor.model))
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

    def _signs_of_collapse(self, history) -> list[str]:
        """What the last epoch says of it."""
        if history is None:
            return []
        last = {name: values[-1] for name, values in history.items()}
        weights = self.run.config.method.loss_weights
        return list(signs_of_collapse(last, len(history[next(iter(history))]) - 1, weights).values())

    def _evaluations(self) -> dict[str, EvaluationResult]:
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
                "Left out: it needs an evaluation by classes, or labelled pictures that can be read.",
            )
        return classifier, key_figures(history, evaluations, knn, knn_control)

    def _samples(self) -> dict[str, Sample]:
        """A sample of each of the run's sources that can be read."""
        samples = {}
        run = self.run
        for role, pictures in run.pictures.items():
            logging.info("Features of up to %d %s pictures", self.max_images, role)
            try:
                sample, bad = take_sample(run.extractor, run.output, pictures, role, self.max_images)
            except UNREADABLE as error:
                self._note("pictures", f"The {role} pictures cannot be used: {error}")
                continue
            samples[role] = sample
            if bad:
                self._note("pictures", f"{len(bad)} {role} pictures cannot be read, such as {bad[0]}")
        if not samples:
            for section in _OF_PICTURES:
                self._note(section, "Left out: it needs the run's pictures, and they cannot be read.")
        return samples

    def _class_counts(self) -> np.ndarray | None:
        """Training pictures of each class."""
        pictures = self.run.pictures.get(TRAINING)
        if pictures is None or pictures.source.labels is None:
            return None
        return class_counts_of(pictures.source.labels[pictures.valid], pictures.source.num_classes)

    def _knn(self, samples: dict[str, Sample], counts, control: bool):
        """The kNN figures and the control's accuracy; None each where they cannot be had."""
        sets = list(samples.values())
        if TRAINING not in samples or any(sample.labels is None for sample in sets):
            return None, None
        if sets[0].class_names != sets[-1].class_names:
            self._note("classes", "Training and validation pictures have other classes: no kNN between them.")
            return None, None
        if len(sets[0]) < 2:
            return None, None
        config, feature = self.run.config, self.run.feature
        knn = knn_section(config, sets[0], sets[-1], counts)
        if not control:
            return knn, None
        logging.info("The same of an untrained control")
        pairs = [(self.run.pictures[sample.source], sample) for sample in sets]
        return knn, control_knn_accuracy(config, feature, pairs)

    def _rotations(self, sample: Sample | None):
        if sample is None:
            return None
        if ROTATION_PROBABILITIES not in self.run.extractor.info.outputs:
            self._note(
                "rotations",
                "Left out: the run's folder holds no heads.keras (runs of older versions did not save it). "
                "Starting the finished run's command again writes it.",
            )
            return None
        viewed = -(-self.max_images // _VIEWED_SHARE)
        logging.info("Predicted rotations of up to %d %s pictures", viewed, sample.source)
        pictures = self.run.pictures[sample.source]
        return rotation_section(self.run.extractor, pictures, sample, viewed)

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
