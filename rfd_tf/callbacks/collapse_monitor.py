from collections.abc import Mapping

import keras
import numpy as np
from absl import logging

from rfd_tf.models.rotation_decoupling import RotationDecoupling
from rfd_tf.rotations import NUM_ROTATIONS, four_views

CHANCE_EPOCHS = 5  # within these rotations may still be told no better than by chance
ON_COLLAPSE = ("warn", "stop")
_SAMPLED_ROWS = 2000


class CollapseError(ArithmeticError):
    """A run's features have collapsed. The message says what shows it, and what to change."""


class CollapseMonitor(keras.callbacks.Callback):
    """Looks for signs, after every epoch, that a `RotationDecoupling` model learns nothing any more.

    Adds to the logs, so put it before callbacks that write them:

    - `bank_cosine`: mean cosine between two rows of the memory bank: near 0 where images are told apart, 1
      where all embeddings are one;
    - `bank_rank`: effective rank of the rows, of at most their length;
    - `dead_features`: share of the units of the split feature that are the same for every view;
    - `gradient_ratio`: norm of the weighted instance loss's gradient at the split feature over that of the
      weighted rotation loss's. On TensorFlow; NaN on other backends, or where either loss weighs nothing.

    `signs_of_collapse` says what is wrong with them. What it finds is logged as a warning, once each.

    Args:
        images: [B, S, S, C] normalised, a few dozen, for the last two.
        on_collapse: `"warn"`, or `"stop"` to raise `CollapseError` at the first sign.

    Raises:
        ValueError: on another `on_collapse`.
    """

    def __init__(self, images: np.ndarray, on_collapse: str = "warn"):
        super().__init__()
        if on_collapse not in ON_COLLAPSE:
            raise ValueError(f"`on_collapse` must be one of {ON_COLLAPSE}. Received: {on_collapse!r}")
        self.images = images
        self.on_collapse = on_collapse
        self._told: set[str] = set()

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        logs |= self.measure()
        signs = signs_of_collapse(logs, epoch, _loss_weights(self.model))
        if signs and self.on_collapse == "stop":
            raise CollapseError(f"Epoch {epoch + 1}: " + " ".join(signs.values()))
        for name, text in signs.items():
            if name not in self._told:
                self._told.add(name)
                logging.warning("Epoch %d: %s", epoch + 1, text)

    def measure(self) -> dict[str, float]:
        """The four figures, now."""
        bank = self.model.memory_bank
        sample = np.linspace(0, bank.num_instances - 1, min(_SAMPLED_ROWS, bank.num_instances))
        rows = keras.ops.convert_to_numpy(keras.ops.take(bank.rows, sample.astype("int32"), axis=0))
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        count = len(rows)
        # Of all pairs of different rows.
        cosine = (count**2 * np.sum(np.square(rows.mean(axis=0))) - count) / max(count * (count - 1), 1)
        views = four_views(keras.ops.convert_to_tensor(self.images))
        features = self.model.backbone(views, training=False)[self.model.feature_name]
        constant = np.ptp(keras.ops.convert_to_numpy(keras.ops.cast(features, "float32")), axis=0) < 1e-6
        return {
            "bank_cosine": float(cosine),
            "bank_rank": effective_rank(rows),
            "dead_features": float(constant.mean()),
            "gradient_ratio": gradient_ratio(self.model, features),
        }


def effective_rank(rows: np.ndarray) -> float:
    """Directions that rows [N, D] vary along: the exponential of the entropy of their covariance's spectrum.

    Reference: Roy and Vetterli, "The effective rank", EUSIPCO 2007, definition 1, of the covariance.
    """
    shares = np.clip(np.linalg.eigvalsh(np.cov(np.asarray(rows, "float64"), rowvar=False)), 0, None)
    if shares.sum() <= 1e-12:
        return 1.0
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def gradient_ratio(model: RotationDecoupling, features) -> float:
    """Weighted instance loss over weighted rotation loss, in norms of gradients at the split feature [4B, D].

    Of the losses as in validation, whose contrast needs no row of the bank for the images. Changes nothing.
    """
    rotation, _invariance, instance = _loss_weights(model)
    if keras.backend.backend() != "tensorflow" or not (rotation and instance):
        return float("nan")
    import tensorflow as tf

    count = features.shape[0] // NUM_ROTATIONS
    negatives = np.random.default_rng(0).integers(0, model.num_instances, (count, model.num_negatives))
    inputs = {"index": np.zeros(count, "int32"), "negatives": negatives.astype("int32")}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        outputs = model.outputs_of(features)
        losses = (
            model.rotation_loss_of(inputs, outputs, training=False),
            model.instance_loss_of(inputs, outputs, training=False),
        )
    norms = [float(tf.norm(tf.cast(tape.gradient(loss, features), tf.float32))) for loss in losses]
    return instance * norms[1] / max(rotation * norms[0], 1e-30)


def _loss_weights(model: RotationDecoupling) -> tuple[float, float, float]:
    return tuple(keras.ops.convert_to_numpy(model.current_loss_weights).tolist())


def signs_of_collapse(
    values: Mapping[str, float], epoch: int, loss_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> dict[str, str]:
    """What the figures of an epoch say of collapse, with what to change; empty where nothing is wrong.

    Args:
        values: a row of a run's history. Figures that it lacks, or that are NaN, are passed over.
        epoch: counted from 0. The first epochs are not judged.
        loss_weights: of rotation, invariance and instance loss. A loss of weight 0 is not judged.
    """
    signs = {}
    if epoch + 1 < CHANCE_EPOCHS:
        return signs
    rotation, _invariance, instance = loss_weights
    if rotation and values.get("rotation_accuracy", 1.0) < 0.3:
        signs["rotation_accuracy"] = (
            f"Rotations are told at {100 * values['rotation_accuracy']:.1f} % (chance is 25 %): the network "
            "learns nothing from them. Lower the learning rate or the instance loss's weight "
            "(method.loss_weights), or look whether the images are already turned at random."
        )
    if instance and values.get("bank_cosine", 0.0) > 0.9:
        signs["bank_cosine"] = (
            f"All embeddings are nearly one (mean cosine {values['bank_cosine']:.3f}). With "
            "method.instance_loss=nce take softmax, or a running normalizer "
            "(method.normalizer_momentum=0.99); else raise the instance loss's weight."
        )
    elif instance and values.get("bank_rank", np.inf) < 2:
        signs["bank_rank"] = (
            f"The embeddings vary along one direction only (effective rank {values['bank_rank']:.2f}). Try "
            "method.instance_loss=softmax, or a lower learning rate."
        )
    if values.get("dead_features", 0.0) > 0.9:
        signs["dead_features"] = (
            f"{100 * values['dead_features']:.0f} % of the features are the same for every image. Start anew "
            "with a lower learning rate, a longer optimizer.warmup_epochs, or optimizer.clip_norm."
        )
    if rotation and instance and values.get("gradient_ratio", 0.0) > 100:
        signs["gradient_ratio"] = (
            f"The instance loss's gradient is {values['gradient_ratio']:.0f} times the rotation loss's. "
            "Lower its weight (method.loss_weights), or with method.instance_loss=nce take softmax."
        )
    return signs
