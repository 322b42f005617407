"""Model, optimizer and callbacks from a config."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import callbacks, data, imbalance
from rfd_tf.losses import LDAMLoss
from rfd_tf.models import RotationDecoupling, create_backbone
from rfd_tf.models.backbone import check_feature_names
from rfd_tf.models.create_backbone import default_feature_names
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.schedules import milestone_schedule
from rfd_tf.training.sources import Pictures, negatives_per_image

ROTATION_HEADS = ("softmax", "ldam")
# Training images that are watched for collapse, and how many of them TensorBoard shows.
_EXAMPLES, _SHOWN_EXAMPLES = 32, 8


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
    initialize=None,
) -> RotationDecoupling:
    """A compiled `RotationDecoupling` model; to be called under the strategy's scope.

    Args:
        config: the run's.
        num_instances: N, training images.
        steps_per_epoch: optimizer steps of an epoch.
        instance_weights: [N, 4] or None.
        synchronized: synchronised batch norm.
        initialize: called with the backbone to set its weights, where the config names an `init`.
    """
    backbone = build_backbone(config, synchronized)
    check_feature_names([measured_feature(config)], list(backbone.output))
    if initialize is not None:
        initialize(backbone)
    head, loss, view_margins = _rotation_head(config, num_instances, instance_weights)
    method = config.method
    model = RotationDecoupling(
        backbone,
        num_instances,
        feature_name=config.backbone.feature,
        rotation_head=head,
        rotation_loss=loss,
        embedding_dim=method.embedding_dim,
        instance_loss=method.get("instance_loss", "nce"),  # runs from before it have none
        num_negatives=negatives_per_image(config, num_instances),
        temperature=method.temperature,
        momentum=method.momentum,
        normalizer_momentum=method.get("normalizer_momentum", 1.0),
        loss_weights=method.loss_weights,
        use_instance_weights=instance_weights is not None,
        view_margins=view_margins,
        seed=config.seed,
    )
    if instance_weights is not None:
        model.set_instance_weights(instance_weights)
    model.compile(build_optimizer(config.optimizer, steps_per_epoch))
    model.optimizer.build(model.trainable_variables)
    return model


def build_backbone(config: ConfigDict, synchronized: bool = False) -> keras.Model:
    """The config's backbone, freshly initialised."""
    size = config.preprocessing.image_size
    return create_backbone(
        config.backbone.name,
        (size, size, 3),
        tuple(config.backbone.features)
        or default_feature_names(config.backbone.name, config.backbone.feature),
        width=config.backbone.width,
        dense_width=config.backbone.dense_width,
        norm_scale_init=config.backbone.get("norm_scale_init", "ones"),  # runs from before it have none
        synchronized=synchronized,
    )


def measured_feature(config: ConfigDict) -> str:
    """The feature that kNN and linear classifiers are given."""
    return config.knn.feature or config.backbone.feature


def build_optimizer(config: ConfigDict, steps_per_epoch: int) -> CoupledSGD:
    """The config's SGD with its schedule."""
    return CoupledSGD(
        milestone_schedule(config.milestones, steps_per_epoch, config.warmup_epochs),
        momentum=config.momentum,
        nesterov=config.nesterov,
        coupled_weight_decay=config.weight_decay,
        global_clipnorm=config.get("clip_norm") or None,
    )


def _rotation_head(config: ConfigDict, num_instances: int, instance_weights):
    if config.method.rotation_head not in ROTATION_HEADS:
        raise ValueError(
            f"`method.rotation_head` must be one of {ROTATION_HEADS}. "
            f"Received: {config.method.rotation_head!r}"
        )
    if config.method.rotation_head == "softmax":
        return "softmax", None, None
    ldam, form = config.ldam, config.ldam.get("margins", "rotation")  # runs from before it have none
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
    return "cosine", loss, imbalance.view_margins(instance_weights, form, ldam.max_margin)


def temperature_swing(config: ConfigDict) -> tuple[float, float, int] | None:
    """(low, high, period) of the contrast's temperature; None where it is fixed."""
    swing = tuple(config.method.get("temperature_swing", ()))  # runs from before it have none
    if len(swing) not in (0, 3):
        raise ValueError(f"`method.temperature_swing` must be (low, high, period). Received: {swing}")
    return swing or None


def state_callbacks(config: ConfigDict, model: RotationDecoupling) -> list[keras.callbacks.Callback]:
    """The callbacks that switch weights on by epoch."""
    acting: list[keras.callbacks.Callback] = []
    if isinstance(model.rotation_loss, LDAMLoss):
        acting.append(callbacks.DeferredReweighting(config.ldam.start_epoch, config.ldam.beta))
    if model.use_instance_weights:
        acting.append(callbacks.InstanceWeighting(config.rotation_probabilities.start_epoch))
    if swing := temperature_swing(config):
        acting.append(callbacks.TemperatureSchedule(*swing))
    return acting


def measuring_callbacks(
    config: ConfigDict, workdir: Path, training: Pictures, validation: Pictures | None
) -> list[keras.callbacks.Callback]:
    """The callbacks that measure features and record them."""
    examples = _example_images(training)
    measuring = [callbacks.CollapseMonitor(examples, config.get("on_collapse", "warn"))]
    if validation is not None and validation.source.labels is not None and config.knn.every_epochs:
        measuring.append(_knn_monitor(config, validation))
    if config.tensorboard:
        summaries = callbacks.TrainingSummaries(workdir / "tensorboard", examples[:_SHOWN_EXAMPLES])
        measuring.append(summaries)
    return measuring


def _example_images(pictures: Pictures) -> np.ndarray:
    count = min(_EXAMPLES, len(pictures.valid))
    indices = pictures.valid[np.linspace(0, len(pictures.valid) - 1, count).astype("int64")]
    examples = data.evaluation_dataset(pictures.source, pictures.preprocessing, count, indices)
    try:
        batch = next(iter(examples))
    except tf.errors.OpError as error:
        pictures.name_bad_image(error, indices)
        raise
    features = batch[0] if isinstance(batch, tuple) else batch
    return features["image"].numpy()


def _knn_monitor(config: ConfigDict, validation: Pictures) -> callbacks.KNNMonitor:
    chosen = validation.valid
    if len(chosen) > config.knn.max_images:
        chosen = chosen[np.linspace(0, len(chosen) - 1, config.knn.max_images).astype("int64")]
    batches = data.evaluation_dataset(
        validation.source, validation.preprocessing, config.batch_size, chosen
    ).map(lambda features, _label: features)
    return callbacks.KNNMonitor(
        batches,
        validation.source.labels,
        measured_feature(config),
        config.knn.every_epochs,
        config.knn.k,
        config.knn.temperature,
    )
