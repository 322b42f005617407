import keras
from keras import ops

from rfd_tf.models.keras_file import variables_without


@keras.saving.register_keras_serializable(package="rfd_tf")
class MultiLabelClassifier(keras.Model):
    """A head on one feature of a network.

    The network's batch norm keeps its statistics, whether it is frozen or not: batches of 16 are too small to
    estimate them.

    Args:
        trunk: functional model from images to the feature.
        head: functional model from the feature to logits [B, C], such as `dense_head`.
        frozen: whether the trunk stays as it is.

    Call args:
        inputs: dict of `image` [B, S, S, 3].

    Reference: Caron et al., ECCV 2018 (DeepCluster), whose code keeps the statistics, too.
    """

    def __init__(self, trunk: keras.Model, head: keras.Model, *, frozen: bool = True, **kwargs):
        super().__init__(**kwargs)
        trunk.trainable = not frozen
        self.trunk = trunk
        self.head = head
        self.frozen = frozen
        self.built = True

    @property
    def training_state(self) -> list[keras.Variable]:
        """The variables that training changes: without those of a frozen trunk."""
        return variables_without(self, self.trunk if self.frozen else None)

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
