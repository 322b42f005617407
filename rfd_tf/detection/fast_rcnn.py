from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import layers, ops

from rfd_tf.distribution import num_replicas
from rfd_tf.layers import RoIMaxPool
from rfd_tf.models.classifiers import PartlyFrozen

BACKGROUND = 0  # class c of the data is class c + 1 here
DENSE_LAYERS = ("fc6", "fc7")


@keras.saving.register_keras_serializable(package="rfd_tf")
class FastRCNN(PartlyFrozen):
    """A detector: a feature map of the image, pooled for each proposed region, dense layers, and two heads.

    For each region one head predicts the class, background included, and the other how to move and stretch
    its box for each class (`rfd_tf.detection.boxes`). The targets of the latter are normalised by their mean
    and deviation in the training set, `(delta - mean) / deviation`, which the model holds.

    Batch norm in the trunk is frozen: two images a step are too few to estimate its statistics.

    Args:
        trunk: functional model from images [B, H, W, 3], H and W unknown, to maps [B, h, w, C].
        num_classes: C, without the background.
        pool: a `RoIMaxPool` of the maps' stride; by default that of AlexNet's conv5, 6 bins a side.
        dense_width: units of fc6 and fc7.
        dropout: in [0, 1), after each of them.
        exclusive_deltas: whether deltas take a box to be x2 - x1 wide, as Fast R-CNN's code does, and not
            x2 - x1 + 1; a fact about the targets that it learns from (`rfd_tf.detection.boxes`).
        ranks: of fc6 and fc7 where each is two layers with nothing between them (`truncated_svd`).

    Call args:
        inputs: dict of `image` [B, H, W, 3] and `regions` float [B, R, 4], boxes in pixels of that image.

    Returns:
        Dict of `class_logits` [B, R, C + 1] and `deltas` [B, R, C + 1, 4], normalised.

    `fit` takes as targets a dict of `labels` int [B, R] (0 the background, -1 for regions that only fill the
    batch) and `deltas` [B, R, 4], not normalised. Metrics: `loss`, `class_loss`, `box_loss`, `accuracy`, and
    `foreground_accuracy`, of the regions that are not background.

    Raises:
        ValueError: on arguments out of range, or a trunk whose output is not one map.

    Reference: Girshick, "Fast R-CNN", ICCV 2015; the deviations of the new layers' weights are its.
    """

    def __init__(
        self,
        trunk: keras.Model,
        num_classes: int = 20,
        *,
        pool: RoIMaxPool | None = None,
        dense_width: int = 4096,
        dropout: float = 0.5,
        exclusive_deltas: bool = False,
        ranks: Sequence[int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(f"`num_classes` must be at least 1. Received: num_classes={num_classes}")
        if not isinstance(trunk.output, keras.KerasTensor) or len(trunk.output.shape) != 4:
            raise ValueError(f"The trunk {trunk.name!r} must have one map [B, h, w, C] as its output")
        self.trunk = trunk
        self.num_classes = num_classes
        self.dense_width = dense_width
        self.dropout = dropout
        self.exclusive_deltas = exclusive_deltas
        self.ranks = None if ranks is None else _checked_ranks(ranks)
        self.pool = pool or RoIMaxPool()
        pooled = keras.Input((self.pool.size, self.pool.size, trunk.output.shape[-1]), name="pooled")
        self.head = _head(pooled, num_classes, dense_width, dropout, self.ranks)
        shape = (num_classes + 1, 4)
        self.delta_means = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="delta_means"
        )
        self.delta_deviations = self.add_weight(
            shape=shape, initializer="ones", trainable=False, name="delta_deviations"
        )
        self.trackers = {
            name: keras.metrics.Mean(name=name)
            for name in ("class_loss", "box_loss", "accuracy", "foreground_accuracy")
        }
        self.built = True

    def frozen_variables(self) -> list[keras.Variable]:
        norms = (layer for layer in self.trunk.layers if isinstance(layer, layers.BatchNormalization))
        return [variable for norm in norms for variable in norm.variables]

    @property
    def training_state(self) -> list[keras.Variable]:
        """The variables that checkpoints keep: all."""
        return self.variables

    @property
    def longest_side(self) -> int:
        """Of images, in pixels: what the region pooling covers."""
        return self.pool.max_side * self.pool.stride

    def set_delta_statistics(self, means, deviations) -> None:
        """Set the mean and deviation of box targets by class, each [C + 1, 4].

        Raises:
            ValueError: on other shapes, or a deviation that is not positive.
        """
        means, deviations = np.asarray(means, "float32"), np.asarray(deviations, "float32")
        shape = (self.num_classes + 1, 4)
        if means.shape != shape or deviations.shape != shape or not (deviations > 0).all():
            raise ValueError(
                f"Means and positive deviations must be {shape} each. "
                f"Received: {means.shape}, {deviations.shape}, least deviation {deviations.min()}"
            )
        self.delta_means.assign(means)
        self.delta_deviations.assign(deviations)

    def call(self, inputs, training=False):
        regions = ops.cast(inputs["regions"], "float32")
        batch, count = ops.shape(regions)[0], ops.shape(regions)[1]
        image = ops.repeat(ops.arange(batch, dtype="float32"), count)
        flat = ops.concatenate([image[:, None], ops.reshape(regions, (-1, 4))], axis=1)
        maps = self.trunk(inputs["image"], training=False)
        found = self.head(self.pool(maps, flat), training=training)
        return {
            "class_logits": ops.reshape(found["class_logits"], (batch, count, self.num_classes + 1)),
            "deltas": ops.reshape(found["deltas"], (batch, count, self.num_classes + 1, 4)),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Softmax cross-entropy plus smooth L1 of foreground regions, over the number of regions."""
        labels = ops.cast(y["labels"], "int32")
        counted = ops.cast(labels >= 0, "float32")
        regions = ops.maximum(ops.sum(counted), 1.0)
        foreground = ops.cast(labels > BACKGROUND, "float32")
        labels = ops.maximum(labels, 0)
        class_losses, box_losses = self._region_losses(labels, y["deltas"], y_pred)
        class_loss = ops.sum(class_losses * counted) / regions
        box_loss = ops.sum(box_losses * foreground) / regions
        right = ops.cast(ops.argmax(y_pred["class_logits"], axis=-1) == labels, "float32")
        self.trackers["class_loss"].update_state(class_loss)
        self.trackers["box_loss"].update_state(box_loss)
        self.trackers["accuracy"].update_state(right, sample_weight=counted)
        self.trackers["foreground_accuracy"].update_state(right, sample_weight=foreground)
        return (class_loss + box_loss + sum(self.losses)) / num_replicas()

    def _region_losses(self, labels, deltas, y_pred) -> tuple:
        """For each region, [B, R]: class loss, and box loss for the class of its label."""
        logits = ops.cast(y_pred["class_logits"], "float32")
        class_losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        means, deviations = (ops.take(v, labels, axis=0) for v in (self.delta_means, self.delta_deviations))
        targets = (ops.cast(deltas, "float32") - means) / deviations
        chosen = ops.one_hot(labels, self.num_classes + 1)[..., None]
        predicted = ops.sum(ops.cast(y_pred["deltas"], "float32") * chosen, axis=2)
        box_losses = 4 * keras.losses.huber(targets, predicted, delta=1.0)  # a mean over the four
        return class_losses, box_losses

    def denormalized(self, deltas):
        """The model's deltas [..., C + 1, 4], as deltas of boxes."""
        return deltas * self.delta_deviations + self.delta_means

    def get_config(self):
        return {
            **super().get_config(),
            "trunk": keras.saving.serialize_keras_object(self.trunk),
            "num_classes": self.num_classes,
            "pool": keras.saving.serialize_keras_object(self.pool),
            "dense_width": self.dense_width,
            "dropout": self.dropout,
            "exclusive_deltas": self.exclusive_deltas,
            "ranks": self.ranks,
        }

    @classmethod
    def from_config(cls, config: Mapping):
        config = {**config, "trunk": keras.saving.deserialize_keras_object(config["trunk"])}
        if "pool" in config:
            config["pool"] = keras.saving.deserialize_keras_object(config["pool"])
        else:  # of a file from before the pooling was an argument
            config["pool"] = RoIMaxPool(config.pop("pool_size"), config.pop("stride"))
        return cls(**config)


def _head(pooled, num_classes: int, width: int, dropout: float, ranks) -> keras.Model:
    x = layers.Flatten(name="flatten")(pooled)
    for name, rank in zip(DENSE_LAYERS, ranks or (None, None), strict=True):
        if rank:
            x = layers.Dense(rank, use_bias=False, name=f"{name}_svd")(x)
        x = layers.Dense(width, activation="relu", kernel_initializer=_normal(0.005), name=name)(x)
        x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    full = keras.config.floatx()
    classes = num_classes + 1
    logits = layers.Dense(classes, kernel_initializer=_normal(0.01), dtype=full, name="class_logits")(x)
    deltas = layers.Dense(4 * classes, kernel_initializer=_normal(0.001), dtype=full, name="deltas")(x)
    return keras.Model(pooled, {"class_logits": logits, "deltas": deltas}, name="detection_head")


def truncated_svd(model: FastRCNN, ranks: Sequence[int]) -> FastRCNN:
    """The detector with fc6 and fc7 of lower rank: fewer multiplications, other scores.

    Of the kernel W [n, width] of each the `rank` largest singular values stay: x W becomes (x A) B with A
    [n, rank] and B [rank, width]. That takes rank (n + width) multiplications a region instead of n width.

    Args:
        model: a trained detector. It is not changed.
        ranks: of fc6 and fc7, from 1 to that of the kernel; 1024 and 256 in the paper.

    Returns:
        A detector with weights of its own, without an optimizer.

    Raises:
        ValueError: on a rank out of range, or a detector that has been through this.

    Reference: Girshick, "Fast R-CNN", ICCV 2015, section 3.1.
    """
    ranks = _checked_ranks(ranks)
    if model.ranks:
        raise ValueError(f"fc6 and fc7 of {model.name!r} have been truncated already, to ranks {model.ranks}")
    for name, rank in zip(DENSE_LAYERS, ranks, strict=True):
        shape = tuple(model.head.get_layer(name).kernel.shape)
        if rank > min(shape):
            raise ValueError(f"The rank of {name}, {shape}, is {min(shape)} at most. Received: {rank}")
    smaller = FastRCNN.from_config({**model.get_config(), "ranks": ranks})
    smaller.trunk.set_weights(model.trunk.get_weights())
    smaller.set_delta_statistics(*map(ops.convert_to_numpy, (model.delta_means, model.delta_deviations)))
    for layer in model.head.layers:
        if layer.name not in DENSE_LAYERS:
            smaller.head.get_layer(layer.name).set_weights(layer.get_weights())
    for name, rank in zip(DENSE_LAYERS, ranks, strict=True):
        kernel, bias = model.head.get_layer(name).get_weights()
        first, second = _factors(kernel, rank)
        smaller.head.get_layer(f"{name}_svd").set_weights([first])
        smaller.head.get_layer(name).set_weights([second, bias])
    return smaller


def _factors(kernel: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The product nearest to a kernel: [n, rank] and [rank, width].

    W V V', where the columns of V are right singular vectors: eigenvectors of W'W, much faster to find.
    """
    wide = kernel.astype("float64")
    _, vectors = np.linalg.eigh(wide.T @ wide)  # by rising eigenvalue
    largest = vectors[:, ::-1][:, :rank]
    return (wide @ largest).astype(kernel.dtype), largest.T.astype(kernel.dtype)


def _checked_ranks(ranks: Sequence[int]) -> tuple[int, ...]:
    found = tuple(ranks)
    if len(found) != len(DENSE_LAYERS) or min(found) < 1:
        raise ValueError(f"`ranks` must be two numbers, of fc6 and fc7, at least 1 each. Received: {found}")
    return found


def _normal(deviation: float) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=deviation)
