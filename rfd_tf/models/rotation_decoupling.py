import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from rfd_tf.distribution import num_replicas
from rfd_tf.layers.cosine_dense import CosineDense, l2_normalize
from rfd_tf.layers.memory_bank import MemoryBank
from rfd_tf.losses.pretraining import instance_softmax_loss, nce_loss, rotation_invariance_loss
from rfd_tf.models.backbone import dense, half_width
from rfd_tf.models.libraries import named_features
from rfd_tf.precision import full_precision
from rfd_tf.rotations import (
    NUM_ROTATIONS,
    four_views,
    four_views_of_two_crops,
    rotation_labels_like,
)

ROTATION_HEADS = ("softmax", "cosine")
INSTANCE_LOSSES = ("nce", "softmax")
BANKS = ("replicated", "sharded")


@keras.saving.register_keras_serializable(package="rfd_tf")
@dataclasses.dataclass(frozen=True)
class RotationTask:
    """How the rotations of the views are told from the rotation features.

    Attributes:
        head: `"softmax"`, a dense layer as in the original, or `"cosine"`, for `LDAMLoss`.
        loss: on [4B] rotation labels and [4B, 4] logits; by default cross-entropy.
        use_instance_weights: keep a table of rotation weights [N, 4] (`set_instance_weights`).
        view_margins: margins of a view of weight 0 and of one of weight 1, between which a view's is by its
            weight (`imbalance.view_margins`); taken off the logit of its rotation, besides the loss's own.
            From the first step on; in validation, where no weight is known, every view's is 1.

    Raises:
        ValueError: on an unknown head, or margins that are not two or lack the weights that choose them.

    Reference: Cao et al., NeurIPS 2019 (LDAM).
    """

    head: str = "softmax"
    loss: keras.losses.Loss | None = None
    use_instance_weights: bool = False
    view_margins: Sequence[float] | None = None

    def __post_init__(self):
        if self.head not in ROTATION_HEADS:
            raise ValueError(f"`head` must be one of {ROTATION_HEADS}. Received: head={self.head!r}")
        margins = self.view_margins
        if margins is not None and (len(margins) != 2 or not self.use_instance_weights):
            raise ValueError(
                "`view_margins` must be two margins, and needs use_instance_weights=True. "
                f"Received: view_margins={margins}, use_instance_weights={self.use_instance_weights}"
            )
        if margins is not None:
            object.__setattr__(self, "view_margins", tuple(map(float, margins)))  # of a file, a list

    def get_config(self):
        loss = keras.saving.serialize_keras_object(self.loss)
        return {**vars(self), "loss": loss}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


@keras.saving.register_keras_serializable(package="rfd_tf")
@dataclasses.dataclass(frozen=True)
class InstanceTask:
    """How images are told apart by the invariant features, against the rows of a memory bank.

    Attributes:
        loss: `"nce"`, noise-contrastive estimation as in the original, or `"softmax"`, the cross-entropy of
            telling the own row among others, which is right at every N.
        num_negatives: K, drawn uniformly with replacement over all N. 0, for `"softmax"` only: all N rows.
        temperature: T of the contrast. `RotationDecoupling.set_temperature` changes it.
        embedding_dim: length of the embedding that the bank remembers.
        momentum: of the bank's rows.
        normalizer_momentum: of NCE's Z; 1 keeps that of the first batch (`MemoryBank`).
        bank: `"replicated"`, every replica holds all rows; or `"sharded"`, each N / R of them, from which its
            negatives are drawn: for banks larger than a device (`MemoryBank`). Needs `num_negatives`.
        bank_dtype: what the rows are kept in, `"float32"` or `"bfloat16"`; by default Keras's `floatx`.
        seed: of the negatives drawn on the device.

    Raises:
        ValueError: on an unknown loss or bank, or a number of negatives that it cannot work with.

    Reference: Wu et al., CVPR 2018 (bank, both losses).
    """

    loss: str = "nce"
    num_negatives: int = 4096
    temperature: float = 0.07
    embedding_dim: int = 128
    momentum: float = 0.5
    normalizer_momentum: float = 1.0
    bank: str = "replicated"
    bank_dtype: str | None = None
    seed: int = 0

    def __post_init__(self):
        if self.loss not in INSTANCE_LOSSES:
            raise ValueError(f"`loss` must be one of {INSTANCE_LOSSES}. Received: loss={self.loss!r}")
        if self.num_negatives < (1 if self.loss == "nce" else 0):
            raise ValueError(
                "`num_negatives` must be at least 1, or, for loss='softmax', 0 for the whole bank. "
                f"Received: num_negatives={self.num_negatives} with loss={self.loss!r}"
            )
        if self.bank not in BANKS or (self.bank == "sharded" and not self.num_negatives):
            raise ValueError(
                f"`bank` must be one of {BANKS}, and 'sharded' needs num_negatives > 0. "
                f"Received: bank={self.bank!r} with num_negatives={self.num_negatives}"
            )

    def get_config(self):
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="rfd_tf")
class RotationDecoupling(keras.Model):
    """Rotation feature decoupling: a backbone, its three heads, three losses and the memory bank.

    The backbone maps every image's four views to D features. The first D/2, the rotation features, predict
    the rotation; the last D/2, the invariant features, are pulled towards their mean over the views, and that
    mean tells instances apart against the bank.

    Args:
        backbone: functional model from images to a dict of features (`rfd_tf.models`); any other functional
            model is wrapped by `named_features`.
        num_instances: N, training images, the bank's rows.
        feature_name: which of the backbone's features to split, [B, D] with D even; by default the last.
        rotation_task: how rotations are told, a `RotationTask`.
        instance_task: how images are told apart, an `InstanceTask`.
        loss_weights: of rotation, invariance and instance loss. `set_loss_weights` changes them.
        normalization: (mean, std), three values each, of RGB in [0, 1], by which images that come as uint8
            are normalised on the device; None takes all images as they come.

    Call args:
        inputs: dict of `image` [B, S, S, C], normalised or uint8 (see `normalization`), `index` [B] instance
            indices in [0, N), and optionally `negatives` [B, K] rows to contrast with. Without `negatives`
            they are drawn on the device; a pipeline that draws them by (seed, epoch, index) makes a run
            independent of batching and replicas. With `second_image`, another crop of the same images, the
            views turned by 90 and 270 degrees are the second crop's: what the invariant half keeps is then
            invariant to the crop, too.

    Returns:
        dict of `rotation_logits` and `invariant_rotation_logits` [4B, 4] (the head on either half),
        `invariant_features` [4B, D/2], `embedding` [B, embedding_dim] of unit norm.

    Metrics, in training and validation: `loss`, `rotation_loss`, `invariance_loss`, `instance_loss`,
    `rotation_accuracy`, and `invariant_rotation_accuracy`, which is near chance (25 %) where the halves are
    decoupled. A validation image has no row in the bank: its instance loss takes the embedding of its upright
    view for the row and the mean of its three turned views for the query.

    Raises:
        ValueError: on an argument out of range or a backbone feature that cannot be split.

    Reference: Feng et al., "Self-Supervised Representation Learning by Rotation Feature Decoupling",
        CVPR 2019; Chen et al., ICML 2020 (two crops).
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_instances: int,
        *,
        feature_name: str | None = None,
        rotation_task: RotationTask = RotationTask(),
        instance_task: InstanceTask = InstanceTask(),
        loss_weights: Sequence[float] = (1.0, 1.0, 1.0),
        normalization: Sequence[Sequence[float]] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.backbone = backbone if isinstance(backbone.output, dict) else named_features(backbone)
        backbone = self.backbone
        self.num_instances = num_instances
        self.feature_name = feature_name or list(backbone.output)[-1]
        self.rotation_task = rotation_task
        self.rotation_loss = rotation_task.loss or keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        )
        self.instance_task = instance_task
        self.loss_weights = _checked_loss_weights(loss_weights)
        self.normalization = None if normalization is None else tuple(map(tuple, normalization))
        self.seed_generator = keras.random.SeedGenerator(instance_task.seed)
        self.half_width = half_width(backbone, self.feature_name)
        self._add_heads()
        self._add_instance_weights()
        self.current_loss_weights = self.add_weight(
            name="loss_weights",
            shape=(3,),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(self.loss_weights, dtype),
            trainable=False,
            autocast=False,
        )
        # JAX sees a variable change only if it hangs on the model.
        self.rotation_class_weights = getattr(self.rotation_loss, "class_weights", None)
        self._add_metrics()
        self.built = True

    def _add_heads(self) -> None:
        if self.rotation_task.head == "cosine":
            self.rotation_head = CosineDense(NUM_ROTATIONS, name="rotation_head")
        else:
            self.rotation_head = dense(NUM_ROTATIONS, self.half_width, "rotation_head")
        task = self.instance_task
        self.projection = dense(task.embedding_dim, self.half_width, "projection")
        self.memory_bank = MemoryBank(
            self.num_instances,
            task.embedding_dim,
            task.temperature,
            task.momentum,
            task.normalizer_momentum,
            sharded=task.bank == "sharded",
            rows_dtype=task.bank_dtype,
            name="memory_bank",
        )
        self.rotation_head.build((None, self.half_width))
        self.projection.build((None, self.half_width))
        self.memory_bank.build()

    def _add_instance_weights(self) -> None:
        if not self.rotation_task.use_instance_weights:
            return
        shape = (self.num_instances, NUM_ROTATIONS)
        self.instance_weights = self.add_weight(
            name="instance_weights", shape=shape, initializer="ones", trainable=False, autocast=False
        )
        self.instance_weighting = self.add_weight(
            name="instance_weighting", shape=(), initializer="zeros", trainable=False, autocast=False
        )

    def _add_metrics(self) -> None:
        names = ("rotation_loss", "invariance_loss", "instance_loss")
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.accuracies = {
            name: keras.metrics.SparseCategoricalAccuracy(name=name)
            for name in ("rotation_accuracy", "invariant_rotation_accuracy")
        }

    def set_instance_weights(self, weights: np.ndarray) -> None:
        """Set the rotation weights [N, 4] (`imbalance.rotation_instance_weights`); they act once switched on.

        `rfd_tf.callbacks.InstanceWeighting` switches them on by epoch.
        """
        if not self.rotation_task.use_instance_weights:
            raise ValueError("This model was made with use_instance_weights=False")
        expected = (self.num_instances, NUM_ROTATIONS)
        if np.shape(weights) != expected:
            raise ValueError(f"`weights` must have shape {expected}. Received {np.shape(weights)}")
        self.instance_weights.assign(weights)

    def set_temperature(self, temperature: float) -> None:
        """Go on with another temperature, from the next batch on (`MemoryBank.set_temperature`)."""
        self.memory_bank.set_temperature(temperature)

    def set_loss_weights(self, loss_weights: Sequence[float]) -> None:
        """Go on with other weights of rotation, invariance and instance loss; no retrace."""
        self.current_loss_weights.assign(_checked_loss_weights(loss_weights))

    def call(self, inputs, training=False):
        image = self._normalized(inputs["image"])
        if "second_image" in inputs:
            views = four_views_of_two_crops(image, self._normalized(inputs["second_image"]))
        else:
            views = four_views(image)
        return self.outputs_of(self.backbone(views, training=training)[self.feature_name])

    def _normalized(self, images):
        if self.normalization is None or keras.backend.standardize_dtype(images.dtype) != "uint8":
            return images
        # By rows: on a processor, broadcasting over three channels takes three times as long.
        height, width, channels = images.shape[1:]
        statistics = (np.tile(np.asarray(values, "float32"), width) for values in self.normalization)
        mean, std = map(ops.convert_to_tensor, statistics)
        rows = ops.cast(ops.reshape(images, (-1, height, width * channels)), "float32")
        rows = ops.cast((rows / 255.0 - mean) / std, self.compute_dtype)
        return ops.reshape(rows, (-1, height, width, channels))

    def outputs_of(self, features):
        """What `call` returns, of the split feature [4B, D] of the views."""
        rotation, invariant = ops.split(features, 2, axis=-1)
        by_image = ops.reshape(invariant, (-1, NUM_ROTATIONS, self.half_width))
        return {
            "rotation_logits": full_precision(self.rotation_head(rotation)),
            "invariant_rotation_logits": full_precision(self.rotation_head(ops.stop_gradient(invariant))),
            "invariant_features": full_precision(invariant),
            "embedding": self._embed(ops.mean(by_image, axis=1)),
        }

    def _embed(self, invariant_features):
        return l2_normalize(full_precision(self.projection(invariant_features)))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The weighted sum of the three losses; updates metrics and, in training, bank and normalizer.

        `y` and `sample_weight` are not used: the labels are the rotations.
        """
        replicas = num_replicas()
        losses = {
            # Keras's losses come already divided by the number of replicas.
            "rotation_loss": self.rotation_loss_of(x, y_pred, training) * replicas,
            "invariance_loss": rotation_invariance_loss(y_pred["invariant_features"]),
            "instance_loss": self.instance_loss_of(x, y_pred, training),
        }
        self._update_metrics(losses, y_pred)
        weights = ops.unstack(ops.convert_to_tensor(self.current_loss_weights), 3)
        total = sum(weight * loss for weight, loss in zip(weights, losses.values(), strict=True))
        return sum(self.losses, total) / replicas  # with the regularizers of a wrapped backbone

    def rotation_loss_of(self, x, y_pred, training):
        """The rotation loss of `call`'s inputs and outputs; changes nothing."""
        logits = y_pred["rotation_logits"]
        labels = rotation_labels_like(logits)
        rows, weights = 1.0, None
        if self.rotation_task.use_instance_weights and training:
            rows = ops.reshape(ops.take(self.instance_weights, x["index"], axis=0), (-1,))
            weights = 1.0 + self.instance_weighting * (rows - 1.0)
        if self.rotation_task.view_margins is not None:
            ambiguous, rotatable = self.rotation_task.view_margins
            margins = ops.cast(ambiguous + rows * (rotatable - ambiguous), logits.dtype)
            one_hot = ops.one_hot(labels, NUM_ROTATIONS, dtype=logits.dtype)
            logits = logits - one_hot * ops.reshape(margins, (-1, 1))  # not in place: PyTorch's would be
        return self.rotation_loss(labels, logits, sample_weight=weights)

    def instance_loss_of(self, x, y_pred, training):
        """The instance loss of `call`'s inputs and outputs; in training updates bank and normalizer."""
        embedding, bank = y_pred["embedding"], self.memory_bank
        whole_bank = not self.instance_task.num_negatives
        positives = None  # column 0
        if training and whole_bank:
            similarities, positives = bank(embedding), x["index"]
        elif training:
            similarities = bank.contrast(embedding, self._negatives(x), x["index"])
        else:
            by_image = ops.reshape(y_pred["invariant_features"], (-1, NUM_ROTATIONS, self.half_width))
            upright, turned = self._embed(by_image[:, 0]), self._embed(ops.mean(by_image[:, 1:], axis=1))
            positive = ops.sum(upright * turned, axis=-1, keepdims=True)
            positive = positive / ops.convert_to_tensor(bank.current_temperature)
            negatives = bank(turned) if whole_bank else bank.contrast(turned, self._negatives(x))
            similarities = ops.concatenate([positive, negatives], axis=1)
        if self.instance_task.loss == "softmax":
            loss = instance_softmax_loss(similarities, positives)
        else:
            normalizer = bank.normalizer_of(similarities, update=training)
            if training:
                bank.normalizer.assign(normalizer)
            loss = nce_loss(similarities, normalizer, self.num_instances)
        if training:
            bank.update(ops.stop_gradient(embedding), x["index"])
        return loss

    def _negatives(self, x):
        if "negatives" in x:
            return ops.cast(x["negatives"], "int32")
        shape = (ops.shape(x["index"])[0], self.instance_task.num_negatives)
        return keras.random.randint(shape, 0, self.num_instances, seed=self.seed_generator)

    def _update_metrics(self, losses: Mapping, y_pred) -> None:
        images = ops.shape(y_pred["embedding"])[0]
        for name, loss in losses.items():
            self.loss_trackers[name].update_state(loss, sample_weight=images)
        labels = rotation_labels_like(y_pred["rotation_logits"])
        self.accuracies["rotation_accuracy"].update_state(labels, y_pred["rotation_logits"])
        self.accuracies["invariant_rotation_accuracy"].update_state(
            labels, y_pred["invariant_rotation_logits"]
        )

    def heads(self) -> keras.Model:
        """What the heads make of features [B, D], as a functional model that shares their weights.

        Returns:
            A model with the outputs `rotation_probabilities` [B, 4], of the view being turned by 0, 90, 180
            and 270 degrees, and `embedding` [B, embedding_dim], of unit norm, of the single view.
        """
        features = keras.Input((2 * self.half_width,), name="features")
        rotation, invariant = ops.split(features, 2, axis=-1)
        logits = full_precision(self.rotation_head(rotation)) * getattr(self.rotation_loss, "scale", 1.0)
        outputs = {"rotation_probabilities": ops.softmax(logits), "embedding": self._embed(invariant)}
        return keras.Model(features, outputs, name="heads")

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "num_instances": self.num_instances,
            "feature_name": self.feature_name,
            "rotation_task": keras.saving.serialize_keras_object(self.rotation_task),
            "instance_task": keras.saving.serialize_keras_object(self.instance_task),
            "loss_weights": self.loss_weights,
            "normalization": self.normalization,
        }

    @classmethod
    def from_config(cls, config):
        objects = ("backbone", "rotation_task", "instance_task")
        revived = {name: keras.saving.deserialize_keras_object(config[name]) for name in objects}
        return cls(**{**config, **revived})


def _checked_loss_weights(loss_weights: Sequence[float]) -> tuple[float, float, float]:
    if len(loss_weights) != 3 or not min(loss_weights) >= 0:
        raise ValueError(f"`loss_weights` must be three weights >= 0. Received: {loss_weights}")
    rotation, invariance, instance = map(float, loss_weights)
    return rotation, invariance, instance
