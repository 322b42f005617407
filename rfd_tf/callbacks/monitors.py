"""What is measured and told while a model trains: collapse, kNN accuracy, TensorBoard, a line an epoch."""

import math
import os
import sys
import time
from collections.abc import Iterable, Mapping

import keras
import numpy as np
from absl import logging

from rfd_tf.metrics.knn import weighted_knn_predict
from rfd_tf.models.backbone import check_feature_names, first_layer_filters
from rfd_tf.models.inference import extract_features
from rfd_tf.models.rotation_decoupling import RotationDecoupling
from rfd_tf.rotations import NUM_ROTATIONS, four_views
from rfd_tf.terminal import progress_bar

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
        rows = self.model.memory_bank.sample(_SAMPLED_ROWS)
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
    negatives = np.random.default_rng(0).integers(
        0, model.num_instances, (count, model.instance_task.num_negatives)
    )
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
    signs: dict[str, str] = {}
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


class KNNMonitor(keras.callbacks.Callback):
    """Weighted kNN accuracy of a backbone's features, leave one out, as `knn_accuracy` in the logs.

    Put it before callbacks that write logs. Epochs where it is not measured have NaN.

    Args:
        batches: dicts of `image` and `index` of a labelled set, which need not be the training source.
        labels: [N] classes, by index.
        feature_name: feature of the model's backbone, [B, D].
        every_epochs: how often; the first epoch is always measured.
        k: neighbours.
        temperature: of the votes.
    """

    def __init__(
        self,
        batches: Iterable[Mapping],
        labels: np.ndarray,
        feature_name: str,
        every_epochs: int = 1,
        k: int = 200,
        temperature: float = 0.07,
    ):
        super().__init__()
        if every_epochs < 1 or k < 1 or not temperature > 0:
            raise ValueError(
                "`every_epochs` and `k` must be at least 1 and `temperature` positive. "
                f"Received: {every_epochs=}, {k=}, {temperature=}"
            )
        self.batches = batches
        self.labels = np.asarray(labels)
        self.feature_name = feature_name
        self.every_epochs = every_epochs
        self.k = k
        self.temperature = temperature

    def on_train_begin(self, logs=None):
        check_feature_names([self.feature_name], list(self.model.backbone.output))

    def on_epoch_end(self, epoch, logs=None):
        due = epoch == 0 or (epoch + 1) % self.every_epochs == 0
        if logs is not None:
            logs["knn_accuracy"] = self.measure() if due else float("nan")

    def measure(self) -> float:
        """The accuracy now, in [0, 1]."""
        features, index = extract_features(self.model.backbone, self.batches, self.feature_name)
        labels = self.labels[index]
        predicted = weighted_knn_predict(features, labels, None, self.k, self.temperature)
        return float(np.mean(predicted == labels))


_BANK_SAMPLE = 10_000


class TrainingSummaries(keras.callbacks.Callback):
    """TensorBoard records, per epoch, of what is particular to a `RotationDecoupling` model.

    Every value of the logs, the learning rate, the decoupling (rotation accuracy of the rotation features
    minus that of the invariant features), norms of the bank's rows (of 10,000 rows at most) and Z, a grid of
    images by their four views, and the first layer's filters.

    Args:
        log_dir: where TensorBoard reads.
        images: [B, S, S, C] normalised, a few of them, for the grid; C is 1 or 3.
    """

    def __init__(self, log_dir: str | os.PathLike, images: np.ndarray):
        super().__init__()
        self.log_dir = str(log_dir)
        self.images = images

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        scalars = {f"epoch/{name}": value for name, value in (logs or {}).items()}
        scalars |= self._own_scalars(logs or {})
        with self._writer.as_default(step=epoch):
            for name, value in scalars.items():
                if np.isfinite(value):  # what is not measured in this epoch is NaN
                    tf.summary.scalar(name, float(value))
            if epoch == 0:
                views = four_views(keras.ops.convert_to_tensor(self.images))
                grid = _grid(keras.ops.convert_to_numpy(views), columns=NUM_ROTATIONS)
                tf.summary.image("views", grid[None])
            filters = np.transpose(first_layer_filters(self.model.backbone), (3, 0, 1, 2))
            tf.summary.image("filters", _grid(filters, columns=8)[None])
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def _own_scalars(self, logs) -> dict[str, float]:
        bank = self.model.memory_bank
        norms = np.linalg.norm(bank.sample(_BANK_SAMPLE), axis=1)
        scalars = {
            "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            "bank/norm_mean": norms.mean(),
            "bank/norm_std": norms.std(),
            "bank/normalizer": float(bank.normalizer.numpy()),
        }
        for prefix in ("", "val_"):
            if f"{prefix}rotation_accuracy" in logs:
                scalars[f"decoupling/{prefix or 'train_'}gap"] = (
                    logs[f"{prefix}rotation_accuracy"] - logs[f"{prefix}invariant_rotation_accuracy"]
                )
        return scalars


def _grid(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles [N, H, W, C], each stretched to [0, 1], as one image [rows * H, columns * W, C]."""
    low = tiles.min(axis=(1, 2, 3), keepdims=True)
    high = tiles.max(axis=(1, 2, 3), keepdims=True)
    tiles = (tiles - low) / np.maximum(high - low, 1e-12)
    missing = -len(tiles) % columns
    tiles = np.concatenate([tiles, np.zeros((missing, *tiles.shape[1:]), tiles.dtype)])
    rows = [np.concatenate(list(row), axis=1) for row in tiles.reshape(-1, columns, *tiles.shape[1:])]
    return np.concatenate(rows, axis=0).astype("float32")


_WIDTH = 79
_SHARES = ("accuracy", "top1", "top5")


class EpochSummary(keras.callbacks.Callback):
    """Prints a line of at most 79 characters after every epoch, and shows a bar where someone watches.

    Put it after callbacks that add to the logs, and give `fit` `verbose=0`.

    Args:
        epochs: of the whole training, of which `fit` may do a part.
    """

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs
        self._bar, self._since = None, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._since = time.monotonic()
        if sys.stdout.isatty() and sys.stderr.isatty():
            steps = self.params.get("steps")
            self._bar = progress_bar(f"Epoch {epoch + 1}/{self.epochs}", steps, unit="step", leave=False)

    def on_train_batch_end(self, batch, logs=None):
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self._close()
        print(epoch_line(epoch, self.epochs, logs or {}, time.monotonic() - self._since), flush=True)

    def on_train_end(self, logs=None):
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def epoch_line(epoch: int, epochs: int, logs: Mapping[str, float], seconds: float) -> str:
    """An epoch in at most 79 characters: its loss, then accuracies, then what else there is room for.

    Args:
        epoch: counted from 0.
        epochs: of the whole training.
        logs: of the epoch; validation figures (`val_NAME`) stand in brackets behind those of training.
        seconds: that it took.
    """
    line = f"Epoch {epoch + 1}/{epochs} {_duration(seconds)}"
    names = [name for name in logs if not name.startswith("val_") or name.removeprefix("val_") not in logs]
    label = "val "  # once is enough
    for name in sorted(names, key=_rank):
        if name.endswith(_SHARES) and math.isnan(logs[name]):
            continue  # not measured in this epoch
        piece = f"  {name.removesuffix('_accuracy')} {_shown(name, logs[name])}"
        if f"val_{name}" in logs:
            piece += f" ({label}{_shown(name, logs[f'val_{name}'])})"
        if len(line) + len(piece) <= _WIDTH:
            line += piece
            label = "" if f"val_{name}" in logs else label
    return line


def _rank(name: str) -> int:
    """Of equal ranks, the order of the logs."""
    return 0 if name == "loss" else 1 if name == "rotation_accuracy" else 2 if name.endswith(_SHARES) else 3


def _shown(name: str, value: float) -> str:
    return f"{value:.1%}" if name.endswith(_SHARES) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"
