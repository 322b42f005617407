"""One pretraining run, from its config to its backbone; started again, it goes on where it was."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from rfd_tf.data import steps_per_epoch
from rfd_tf.files import atomic_path
from rfd_tf.models import RotationDecoupling
from rfd_tf.runs.build import build_model, load_instance_weights, measuring_callbacks, state_callbacks
from rfd_tf.runs.fit import Training, fit
from rfd_tf.runs.images import (
    ImageSet,
    check_same_on_all_workers,
    list_skipped,
    name_bad_image,
    negatives_per_image,
    open_run_images,
    training_batches,
    validation_batches,
)
from rfd_tf.runs.run import Run, start_run
from rfd_tf.runs.workdir import BACKBONE_FILE, HEADS_FILE


def pretrain(config: ConfigDict, workdir: str | os.PathLike, initialize: Callable | None = None) -> Path:
    """Train `RotationDecoupling` as configured, with `model.fit`; continue a run that was interrupted.

    Args:
        config: see `configs/base.py`.
        workdir: the run's folder. It ends with `backbone.keras`, `heads.keras`, `checkpoints/`,
            `config.json`, `history.csv` and `tensorboard/`. Workers other than the first keep theirs in
            `workdir/worker-N`.
        initialize: sets the backbone's weights from `config.init`, before training starts.

    Returns:
        The path of `backbone.keras`.

    Raises:
        WorkdirError: if the folder holds a run of another config.
        BadImageError: on a corrupt image, unless `data.on_error="skip"`.
        NonFiniteLossError: when a loss is no longer finite; the last checkpoint is from before.
        CollapseError: with `on_collapse="stop"`, when the features collapse.
        TrainingStopped: on SIGTERM or Ctrl-C, once the state is saved.
        ValueError: on a config out of range.
    """
    run = start_run(config, workdir)
    with run.hold_folder(config.to_dict()) as folder:
        training, validation = open_run_images(config, run.workdir)
        try:
            model = fit(run, _training(run, training, validation, initialize), ready=folder.claim)
        finally:
            list_skipped(training, validation)
        return _save(model, run.workdir)


def _training(
    run: Run, training: ImageSet, validation: ImageSet | None, initialize: Callable | None
) -> Training:
    config, num_instances = run.config, len(training.source)
    instance_weights = load_instance_weights(config, num_instances)
    check_same_on_all_workers(training, run.strategy)
    drawn = negatives_per_image(config, num_instances)
    compared = f"{drawn} rows of the bank, drawn for each image" if drawn else "all rows of the bank"
    logging.info("Instance loss: %s over %s", config.method.instance_loss, compared)

    def build(synchronized: bool, resumed: bool) -> RotationDecoupling:
        return build_model(
            config,
            num_instances,
            steps_per_epoch(len(training.valid), config.batch_size),
            instance_weights,
            synchronized,
            initialize=initialize if config.init and not resumed else None,
        )

    def held_out():
        return validation and validation_batches(validation, config, run.strategy, num_instances)

    return Training(
        num_examples=len(training.valid),
        build_model=build,
        batches=partial(training_batches, training, config, run.strategy),
        name_bad_image=partial(name_bad_image, config, training, validation),
        validation_batches=held_out,
        state_callbacks=partial(state_callbacks, config),
        measuring_callbacks=partial(measuring_callbacks, config, run.workdir, training, validation),
    )


def _save(model: RotationDecoupling, workdir: Path) -> Path:
    """`backbone.keras` and, before it, `heads.keras`; features and heads only, without the bank."""
    final = workdir / BACKBONE_FILE
    for part, path in ((model.heads(), workdir / HEADS_FILE), (model.backbone, final)):
        with atomic_path(path) as temporary:
            part.save(temporary)
    return final
