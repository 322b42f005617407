"""One evaluation, from its config to its result, and the untrained control that a run is compared with."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.data import clipping_note
from rfd_tf.evaluation.experiment import CLASSES, Experiment, open_experiment
from rfd_tf.evaluation.protocols import protocol as protocol_of
from rfd_tf.evaluation.results import EvaluationResult, Figures, save_result
from rfd_tf.features import FeatureExtractor, KerasExtractor, keras_extractor
from rfd_tf.runs import provenance
from rfd_tf.runs.build import build_backbone
from rfd_tf.runs.fit import check_run_values, set_up_keras
from rfd_tf.runs.images import Pictures, list_skipped, open_run_pictures
from rfd_tf.runs.provenance import stopwatch
from rfd_tf.runs.workdir import CACHE_FOLDER, check_workdir, claim_workdir, lock_workdir, read_run_config

_CALIBRATION_PASSES = 3


CONTROL_NAME = "untrained control"  # ends the location of one, which its evaluations keep


def untrained_control(config: ConfigDict, pictures: Pictures) -> keras.Model:
    """The run's backbone as it was initialised, with batch-norm statistics of the pictures."""
    keras.utils.set_random_seed(config.seed)
    backbone = build_backbone(config)
    # Folders come class by class, and running statistics remember the last batches best.
    shuffled = np.random.default_rng(config.seed).permutation(pictures.valid)
    pictures = dataclasses.replace(pictures, valid=shuffled)
    for _ in range(_CALIBRATION_PASSES):
        for batch in evaluation_batches(pictures, config.batch_size):
            backbone(batch["image"], training=True)
    return backbone


def evaluation_batches(pictures: Pictures, batch_size: int):
    """Every valid picture once, as dicts of `image` and `index`, without labels."""
    dataset = data.evaluation_dataset(pictures.source, pictures.preprocessing, batch_size, pictures.valid)
    return dataset.map(lambda features, *_label: features)


def open_control(run: Path, feature_maps: Sequence[str] | None = None) -> KerasExtractor:
    """An extractor of the untrained control of a run of `rfd train`.

    Args:
        run: its folder.
        feature_maps: as of `extractors.open_extractor`.

    Raises:
        FileNotFoundError: if that is no folder of a run, or its pictures are gone.
        ValueError: if its config cannot be read.
    """
    config = read_run_config(run)
    training, _ = open_run_pictures(config, run)
    return keras_extractor(
        untrained_control(config, training),
        training.preprocessing,
        f"{run}/{CONTROL_NAME}",
        feature_name=config.backbone.feature,
        feature_maps=feature_maps,
    )


_SECONDS_FILE = "seconds.txt"


def evaluate(
    protocol: str,
    config: ConfigDict,
    workdir: str | os.PathLike,
    open_model: Callable[[], FeatureExtractor],
    command: str = "",
) -> EvaluationResult:
    """Measure a model's features by one protocol.

    Args:
        protocol: one of `protocols.PROTOCOLS`.
        config: see `configs/evaluation/base.py`.
        workdir: the evaluation's folder; it ends with `config.json` and `evaluation.json`. Workers other than
            the first keep theirs in `workdir/worker-N`.
        open_model: opens the model; called once TensorFlow's devices are set up.
        command: the command line, for the result.

    Returns:
        The result, as saved in `workdir/evaluation.json`.

    Raises:
        WorkdirError: if the folder holds an evaluation of another model, protocol or config.
        ValueError, OSError: what the protocol, the model and the pictures have to say.
    """
    chosen = protocol_of(protocol)
    return measured(protocol, chosen.load(), config, workdir, open_model, command, chosen.labels)


def measured(
    name: str,
    run: Callable[[Experiment], dict[str, Figures]],
    config: ConfigDict,
    workdir: str | os.PathLike,
    open_model: Callable[[], FeatureExtractor],
    command: str = "",
    labels: str = CLASSES,
) -> EvaluationResult:
    """What `run` finds of a model, with the circumstances, saved; the rest as of `evaluate`.

    Args:
        name: of what is done.
        run: does it, and gives the figures by classifier.
        labels: what is told apart, one of `experiment.LABELS`.
    """
    check_run_values(config)
    strategy = distribution.create_strategy(config.strategy, config.logical_cpus)
    set_up_keras(config)
    worker = distribution.worker_index(strategy)
    workdir = Path(workdir) / (f"worker-{worker}" if worker else "")
    with open_model() as extractor:
        claimed = claim_of(name, config, extractor)
        check_workdir(workdir, claimed)
        with lock_workdir(workdir), stopwatch(seconds_file(workdir)) as seconds:
            experiment = open_experiment(config, extractor, strategy, workdir, labels)
            claim_workdir(workdir, claimed)
            try:
                figures = run(experiment)
            finally:
                list_skipped(experiment.training, experiment.test)
            result = _result(name, experiment, figures, command, seconds())
            if worker == 0:
                save_result(result, workdir)
            return result


def claim_of(protocol: str, config: ConfigDict, extractor: FeatureExtractor) -> dict:
    """What an evaluation's folder belongs to."""
    location = extractor.location
    return {
        **config.to_dict(),
        "protocol": protocol,
        "model": os.path.abspath(location) if os.path.exists(location) else location,
        "model_fingerprint": extractor.fingerprint,
    }


def seconds_file(workdir: Path) -> Path:
    """Where a run's time is kept over its starts, in a folder that is there."""
    folder = workdir / CACHE_FOLDER
    folder.mkdir(exist_ok=True)
    return folder / _SECONDS_FILE


def _result(
    protocol: str,
    experiment: Experiment,
    figures: dict[str, Figures],
    command: str,
    seconds: float,
) -> EvaluationResult:
    return EvaluationResult(
        protocol=protocol,
        model=experiment.extractor.location,
        command=command,
        figures=figures,
        class_names=list(experiment.class_names),
        class_counts=[int(count) for count in experiment.class_counts],
        test_images=len(experiment.test.valid),
        settings=experiment.config.to_dict(),
        seconds=round(seconds, 1),
        notes=[
            note for part in (experiment.training, experiment.test) if (note := clipping_note(part.source))
        ],
        **provenance.here_and_now(),
    )
