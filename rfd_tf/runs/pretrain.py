"""One pretraining run, from its config to its backbone; started again, it goes on where it was."""

import os
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from rfd_tf import callbacks, data, imbalance
from rfd_tf.data import steps_per_epoch
from rfd_tf.files import atomic_path
from rfd_tf.keras_internals import all_layers
from rfd_tf.losses import LDAMLoss
from rfd_tf.models import InstanceTask, RotationDecoupling, RotationTask
from rfd_tf.models.backbone import check_feature_names
from rfd_tf.runs.build import build_backbone, build_optimizer, initialize, measured_feature
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

ROTATION_HEADS = ("softmax", "ldam")
# Training images that are watched for collapse, and how many of them TensorBoard shows.
_EXAMPLES, _SHOWN_EXAMPLES = 32, 8
_MOST_LEFT = 0.05  # of batch norm's initial statistics after a run


def pretrain(config: ConfigDict, workdir: str | os.PathLike) -> Path:
    """Train `RotationDecoupling` as configured, with `model.fit`; continue a run that was interrupted.

    Args:
        config: see `configs/base.py`.
        workdir: the run's folder. It ends with `backbone.keras`, `heads.keras`, `checkpoints/`,
            `config.json`, `history.csv` and `tensorboard/`. Workers other than the first keep theirs in
            `workdir/worker-N`.

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
            model = fit(run, _training(run, training, validation), ready=folder.claim)
        finally:
            list_skipped(training, validation)
        return _save(model, run.workdir)


def _training(run: Run, training: ImageSet, validation: ImageSet | None) -> Training:
    config, num_instances = run.config, len(training.source)
    instance_weights = load_instance_weights(config, num_instances)
    check_same_on_all_workers(training, run.strategy)
    drawn = negatives_per_image(config, num_instances)
    compared = f"{drawn} rows of the bank, drawn for each image" if drawn else "all rows of the bank"
    logging.info("Instance loss: %s over %s", config.method.instance_loss, compared)

    def build(synchronized: bool, resumed: bool) -> RotationDecoupling:
        steps = steps_per_epoch(len(training.valid), config.batch_size)
        model = build_model(config, num_instances, steps, instance_weights, synchronized, resumed)
        if not resumed:
            warn_of_slow_statistics(model.backbone, steps * config.epochs)
        return model

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


def load_instance_weights(config: ConfigDict, num_instances: int) -> np.ndarray | None:
    """Rotation weights [N, 4] of the config's probability file, or None without one."""
    if not config.rotation_probabilities.path:
        return None
    probabilities = data.load_rotation_probabilities(config.rotation_probabilities.path, num_instances)
    return imbalance.rotation_instance_weights(probabilities, config.rotation_probabilities.gamma)


def build_model(
    config: ConfigDict,
    num_instances: int,
    steps_per_epoch: int,
    instance_weights: np.ndarray | None,
    synchronized: bool,
    resumed: bool = False,
) -> RotationDecoupling:
    """A compiled `RotationDecoupling` model; to be called under the strategy's scope.

    Args:
        config: the run's.
        num_instances: N, training images.
        steps_per_epoch: optimizer steps of an epoch.
        instance_weights: [N, 4] or None.
        synchronized: synchronised batch norm.
        resumed: whether a checkpoint will set the weights, rather than `config.init`.
    """
    backbone = build_backbone(config, synchronized)
    check_feature_names([measured_feature(config)], list(backbone.output))
    if not resumed:
        initialize(config, backbone)
    method = config.method
    model = RotationDecoupling(
        backbone,
        num_instances,
        feature_name=config.backbone.feature,
        rotation_task=_rotation_task(config, num_instances, instance_weights),
        instance_task=InstanceTask(
            loss=method.instance_loss,
            num_negatives=negatives_per_image(config, num_instances),
            temperature=method.temperature,
            embedding_dim=method.embedding_dim,
            momentum=method.momentum,
            normalizer_momentum=method.normalizer_momentum,
            bank=method.bank,
            bank_dtype=method.bank_dtype,
            seed=config.seed,
        ),
        loss_weights=method.loss_weights,
        normalization=(config.preprocessing.mean, config.preprocessing.std),
    )
    if instance_weights is not None:
        model.set_instance_weights(instance_weights)
    model.compile(build_optimizer(config.optimizer, steps_per_epoch))
    model.optimizer.build(model.trainable_variables)
    return model


def warn_of_slow_statistics(backbone: keras.Model, steps: int) -> None:
    """Warn if batch norm's running statistics will not have settled after that many steps.

    Networks of one's own have Keras's momentum of 0.99 by default. After some dozen steps they are far from
    what was trained, in inference: the views look alike to them, and rotations are told at chance.
    """
    # Published weights bring statistics that mean something.
    momenta = [
        layer.momentum
        for layer in all_layers(backbone)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and not keras.ops.convert_to_numpy(layer.moving_mean).any()
    ]
    left = max(momenta, default=0.0) ** steps
    if left > _MOST_LEFT:
        logging.warning(
            "Batch norm's running statistics (momentum %g) will keep %.0f %% of their initial values over "
            "the %d steps of this run, and inference will differ from training. Lower the layers' "
            "`momentum`, or train longer",
            max(momenta),
            100 * left,
            steps,
        )


def _rotation_task(config: ConfigDict, num_instances: int, instance_weights) -> RotationTask:
    if config.method.rotation_head not in ROTATION_HEADS:
        raise ValueError(
            f"`method.rotation_head` must be one of {ROTATION_HEADS}. "
            f"Received: {config.method.rotation_head!r}"
        )
    if config.method.rotation_head == "softmax":
        return RotationTask(use_instance_weights=instance_weights is not None)
    ldam, form = config.ldam, config.ldam.margins
    if form not in imbalance.MARGINS:
        raise ValueError(f"`ldam.margins` must be one of {imbalance.MARGINS}. Received: {form!r}")
    if form in ("group", "image") and instance_weights is None:
        raise ValueError(
            "`ldam.margins` of 'group' and 'image' need `rotation_probabilities.path`. "
            f"Received: ldam.margins={form!r} without it"
        )
    if instance_weights is None:
        counts = np.full(4, num_instances, dtype="float64")
    else:
        counts = imbalance.effective_rotation_counts(instance_weights)
    loss = LDAMLoss(counts, ldam.max_margin if form == "rotation" else 0.0, ldam.scale, name="rotation_ldam")
    view_margins = imbalance.view_margins(instance_weights, form, ldam.max_margin)
    return RotationTask("cosine", loss, instance_weights is not None, view_margins)


def temperature_swing(config: ConfigDict) -> tuple[float, float, int] | None:
    """(low, high, period) of the contrast's temperature; None where it is fixed."""
    swing = tuple(config.method.temperature_swing)
    if len(swing) not in (0, 3):
        raise ValueError(f"`method.temperature_swing` must be (low, high, period). Received: {swing}")
    return swing or None


def state_callbacks(config: ConfigDict, model: RotationDecoupling) -> list[keras.callbacks.Callback]:
    """The callbacks that switch weights on by epoch."""
    acting: list[keras.callbacks.Callback] = []
    if isinstance(model.rotation_loss, LDAMLoss):
        acting.append(callbacks.DeferredReweighting(config.ldam.start_epoch, config.ldam.beta))
    if model.rotation_task.use_instance_weights:
        acting.append(callbacks.InstanceWeighting(config.rotation_probabilities.start_epoch))
    if swing := temperature_swing(config):
        acting.append(callbacks.TemperatureSchedule(*swing))
    return acting


def measuring_callbacks(
    config: ConfigDict, workdir: Path, training: ImageSet, validation: ImageSet | None
) -> list[keras.callbacks.Callback]:
    """The callbacks that measure features and record them."""
    examples = _example_images(training)
    measuring = [callbacks.CollapseMonitor(examples, config.on_collapse)]
    if validation is not None and validation.source.labels is not None and config.knn.every_epochs:
        measuring.append(_knn_monitor(config, validation, validation.source.labels))
    if config.tensorboard:
        summaries = callbacks.TrainingSummaries(workdir / "tensorboard", examples[:_SHOWN_EXAMPLES])
        measuring.append(summaries)
    return measuring


def _example_images(images: ImageSet) -> np.ndarray:
    count = min(_EXAMPLES, len(images.valid))
    indices = images.valid[np.linspace(0, len(images.valid) - 1, count).astype("int64")]
    examples = data.evaluation_dataset(images.source, images.preprocessing, count, indices)
    try:
        batch = next(iter(examples))
    except tf.errors.OpError as error:
        images.name_bad_image(error, indices)
        raise
    features = batch[0] if isinstance(batch, tuple) else batch
    return features["image"].numpy()


def _knn_monitor(config: ConfigDict, validation: ImageSet, labels: np.ndarray) -> callbacks.KNNMonitor:
    chosen = validation.valid
    if len(chosen) > config.knn.max_images:
        chosen = chosen[np.linspace(0, len(chosen) - 1, config.knn.max_images).astype("int64")]
    batches = data.evaluation_dataset(
        validation.source, validation.preprocessing, config.batch_size, chosen
    ).map(lambda features, _label: features)
    return callbacks.KNNMonitor(
        batches,
        labels,
        measured_feature(config),
        config.knn.every_epochs,
        config.knn.k,
        config.knn.temperature,
    )
