import dataclasses
import datetime
from pathlib import Path

import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf.data.image_folder import left_out_text
from rfd_tf.features import KerasExtractor, open_keras
from rfd_tf.models.feature_model import FEATURES
from rfd_tf.report.contents import DataFacts, RunFacts
from rfd_tf.runs.build import measured_feature
from rfd_tf.runs.images import Pictures, open_run_pictures
from rfd_tf.runs.workdir import BACKBONE_FILE, read_run_config

TRAINING, VALIDATION = "training", "validation"
UNREADABLE = (OSError, ValueError, ImportError, tf.errors.OpError)  # what pictures that have moved can raise


@dataclasses.dataclass
class OpenedRun:
    """A finished run with its network and those of its pictures that can still be opened.

    Attributes:
        workdir: its folder.
        config: its config.
        extractor: its network.
        feature: the backbone's feature that is looked at: the one its kNN accuracy is measured on.
        output: the extractor's name for it.
        pictures: role -> pictures: `"training"`, then `"validation"` if there are any.
        problem: why pictures are missing; None where they are not.
    """

    workdir: Path
    config: ConfigDict
    extractor: KerasExtractor
    feature: str
    output: str
    pictures: dict[str, Pictures]
    problem: str | None

    def facts(self) -> RunFacts:
        """What was trained, on what, when."""
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
            parameters=self.extractor.model.count_params(),
            feature=self.feature,
            feature_width=self.extractor.info.outputs[self.output][-1],
            data=[_data_facts(role, given, self.pictures.get(role)) for role, given in roles.items()],
            config=self.config.to_dict(),
        )


def open_run(workdir: Path) -> OpenedRun:
    """Opens a finished run.

    Raises:
        FileNotFoundError: if the folder is no run, or one that has not finished.
        ValueError: if its config or network cannot be read.
    """
    config = read_run_config(workdir, "knn")
    feature = measured_feature(config)
    main = config.backbone.feature
    extractor = open_keras(workdir, [] if feature == main else [feature])
    pictures, problem = _open_pictures(config, workdir)
    output = FEATURES if feature == main else feature
    return OpenedRun(workdir, config, extractor, feature, output, pictures, problem)


def _open_pictures(config: ConfigDict, workdir: Path) -> tuple[dict[str, Pictures], str | None]:
    """The pictures that can be opened: all, or those of training, or none; and what the problem is."""
    try:
        opened = open_run_pictures(config, workdir)
        problem = None
    except UNREADABLE as error:
        problem = str(error)
        alone = ConfigDict(config.to_dict())
        alone.validation.source = ""
        try:
            opened = open_run_pictures(alone, workdir)
        except UNREADABLE as training_error:
            return {}, f"The pictures of the run cannot be opened: {training_error}"
        problem = f"The validation pictures cannot be opened: {problem}"
    return {role: found for role, found in zip((TRAINING, VALIDATION), opened, strict=True) if found}, problem


def _data_facts(role: str, given: ConfigDict, pictures: Pictures | None) -> DataFacts:
    place = " ".join(filter(None, (given.source, given.name, given.root)))
    if given.split:
        place += f" (split {given.split})"
    tail = given.get("long_tail")
    if tail and tail.profile:
        place += f", long-tailed: {tail.profile}, ratio {tail.ratio:g}"
    if pictures is None:
        return DataFacts(role, place, None, None, 0)
    source = pictures.source
    left_out = left_out_text(source.left_out)
    return DataFacts(role, place, len(pictures.valid), source.num_classes, len(pictures.skipped), left_out)
