"""Classifiers on a network, which may be frozen or trained along."""

from collections.abc import Mapping

import keras
from keras import ops

from rfd_tf.distribution import num_replicas
from rfd_tf.losses.classification import has_shares


class PartlyFrozen(keras.Model):
    """A model of which a part may not learn; that part stays as it was handed in, `trainable` included."""

    def frozen_variables(self) -> list[keras.Variable]:
        """Those of the part that does not learn; empty where all learns."""
        raise NotImplementedError

    def _learning(self, variables: list[keras.Variable]) -> list[keras.Variable]:
        still = {id(variable) for variable in self.frozen_variables()}
        return [variable for variable in variables if id(variable) not in still]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return self._learning(super().trainable_variables)

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        return self._learning(super().trainable_weights)

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        learning = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in learning]

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        learning = {id(variable) for variable in self.trainable_weights}
        return [variable for variable in self.weights if id(variable) not in learning]

    @property
    def training_state(self) -> list[keras.Variable]:
        """The variables that training changes: without those of the frozen part."""
        return self._learning(self.variables)


@keras.saving.register_keras_serializable(package="rfd_tf")
class ProbedModel(PartlyFrozen):
    """Classifiers on the features of one network, trained together.

    Every probe reads one feature and has a loss of its own; the losses are added up. While the network is
    frozen, in inference mode and without gradients, no probe's training touches another's.

    An auxiliary probe learns labels that come with the inputs, such as how they were rotated, at a weight of
    its own. It is left out where the inputs lack them, as in validation.

    Args:
        probes: probe name -> functional model from its feature to logits [B, C] (`rfd_tf.models.heads`).
        feature_names: probe name -> the feature that it reads.
        probe_losses: probe name -> loss on labels, [B] or soft [B, C], and logits.
        backbone: functional model from images to a dict of features; None where features are the input.
        frozen: whether the backbone stays as it is. Otherwise it is trained along, batch norm included. Its
            own `trainable` is not touched.
        auxiliary: name of an auxiliary probe -> the weight of its loss. Its labels [B] are the input of its
            name.

    Call args:
        inputs: dict of `image` [B, S, S, 3], or of the features by name where there is no backbone, and of
            labels of auxiliary probes.

    Returns:
        dict of logits [B, C] by probe.

    Metrics, in training and validation: `loss`, and for every probe that takes part `PROBE_loss`,
    `PROBE_top1` and, with more than five classes, `PROBE_top5`; of soft labels for the largest share.

    Raises:
        ValueError: if the three mappings do not name the same probes, variables of two probes have the same
            path, a feature is none of the backbone's, or an auxiliary probe is unknown or weighs nothing.

    Reference: Feng et al., CVPR 2019 (RFD): all linear classifiers trained at once.
    """

    def __init__(
        self,
        probes: Mapping[str, keras.Model],
        feature_names: Mapping[str, str],
        probe_losses: Mapping[str, keras.losses.Loss],
        backbone: keras.Model | None = None,
        *,
        frozen: bool = True,
        auxiliary: Mapping[str, float] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not probes or not (probes.keys() == feature_names.keys() == probe_losses.keys()):
            raise ValueError(
                "`probes`, `feature_names` and `probe_losses` must name the same probes. "
                f"Received: {list(probes)}, {list(feature_names)}, {list(probe_losses)}"
            )
        paths = [variable.path for probe in probes.values() for variable in probe.trainable_variables]
        if len(set(paths)) < len(paths):
            raise ValueError(
                "The layers of different probes need different names, as Keras on PyTorch tells variables by "
                f"their paths. Received twice: {max(paths, key=paths.count)}"
            )
        for name in feature_names.values():
            if backbone is not None and name not in backbone.output:
                raise ValueError(f"The backbone {backbone.name!r} has no feature {name!r}")
        self.auxiliary = dict(auxiliary or {})
        for name, weight in self.auxiliary.items():
            if name not in probes or not weight > 0:
                raise ValueError(f"`auxiliary` gives a probe a positive weight. Received: {name!r}: {weight}")
        self.backbone = backbone
        self.frozen = frozen
        self.probes = dict(probes)
        self.feature_names = dict(feature_names)
        self.probe_losses = dict(probe_losses)
        # JAX sees a variable change only if it hangs on the model.
        self.class_weights = [
            loss.class_weights for loss in probe_losses.values() if hasattr(loss, "class_weights")
        ]
        self._add_metrics()
        self.built = True

    def _add_metrics(self) -> None:
        self.loss_trackers = {name: keras.metrics.Mean(name=f"{name}_loss") for name in self.probes}
        self.top1 = {
            name: keras.metrics.SparseCategoricalAccuracy(name=f"{name}_top1") for name in self.probes
        }
        self.top5 = {
            name: keras.metrics.SparseTopKCategoricalAccuracy(5, name=f"{name}_top5")
            for name, probe in self.probes.items()
            if probe.output_shape[-1] > 5
        }

    def frozen_variables(self) -> list[keras.Variable]:
        return self.backbone.variables if self.frozen and self.backbone is not None else []

    def call(self, inputs, training=False):
        features = self._features(inputs, training)
        return {
            name: probe(features[self.feature_names[name]], training=training)
            for name, probe in self.probes.items()
            if name not in self.auxiliary or name in inputs
        }

    def _features(self, inputs, training):
        if self.backbone is None:
            return inputs
        if not self.frozen:
            return self.backbone(inputs["image"], training=training)
        features = self.backbone(inputs["image"], training=False)
        return {name: ops.stop_gradient(value) for name, value in features.items()}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The sum of the probes' losses, auxiliary ones by their weights; updates their metrics."""
        images = ops.shape(y)[0]
        total = 0.0
        for name, logits in y_pred.items():
            labels = x[name] if name in self.auxiliary else y
            loss = self.probe_losses[name](labels, logits)
            # Losses come divided by the number of replicas.
            self.loss_trackers[name].update_state(loss * num_replicas(), sample_weight=images)
            classes = ops.argmax(labels, axis=-1) if has_shares(labels, logits) else labels
            self.top1[name].update_state(classes, logits)
            if name in self.top5:
                # TensorFlow ranks no doubles.
                self.top5[name].update_state(classes, ops.cast(logits, "float32"))
            total = total + self.auxiliary.get(name, 1.0) * loss
        return total + sum(self.losses) / num_replicas()

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Without those of auxiliary probes that were left out."""
        found = super().compute_metrics(x, y, y_pred, sample_weight)
        left_out = [name for name in self.auxiliary if name not in y_pred]
        return {
            metric: value
            for metric, value in found.items()
            if not any(metric in (f"{name}_loss", f"{name}_top1", f"{name}_top5") for name in left_out)
        }

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "probes": {name: serialize(probe) for name, probe in self.probes.items()},
            "feature_names": dict(self.feature_names),
            "probe_losses": {name: serialize(loss) for name, loss in self.probe_losses.items()},
            "backbone": None if self.backbone is None else serialize(self.backbone),
            "frozen": self.frozen,
            "auxiliary": dict(self.auxiliary),
        }

    @classmethod
    def from_config(cls, config):
        revive = keras.saving.deserialize_keras_object
        revived = {
            group: {name: revive(thing) for name, thing in config[group].items()}
            for group in ("probes", "probe_losses")
        }
        backbone = config["backbone"] and revive(config["backbone"])
        return cls(**{**config, **revived, "backbone": backbone})


@keras.saving.register_keras_serializable(package="rfd_tf")
class MultiLabelClassifier(PartlyFrozen):
    """A head on one feature of a network.

    The network's batch norm keeps its statistics, whether it is frozen or not: batches of 16 are too small to
    estimate them.

    Args:
        trunk: functional model from images to the feature.
        head: functional model from the feature to logits [B, C], such as `dense_head`.
        frozen: whether the trunk stays as it is. Its own `trainable` is not touched.

    Call args:
        inputs: dict of `image` [B, S, S, 3].

    Reference: Caron et al., ECCV 2018 (DeepCluster), whose code keeps the statistics, too.
    """

    def __init__(self, trunk: keras.Model, head: keras.Model, *, frozen: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.trunk = trunk
        self.head = head
        self.frozen = frozen
        self.built = True

    def frozen_variables(self) -> list[keras.Variable]:
        return self.trunk.variables if self.frozen else []

    def call(self, inputs, training=False):
        feature = self.trunk(inputs["image"], training=False)
        return self.head(ops.stop_gradient(feature) if self.frozen else feature, training=training)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        parts = {"trunk": serialize(self.trunk), "head": serialize(self.head)}
        return {**super().get_config(), **parts, "frozen": self.frozen}

    @classmethod
    def from_config(cls, config):
        revived = {part: keras.saving.deserialize_keras_object(config[part]) for part in ("trunk", "head")}
        return cls(**{**config, **revived})
