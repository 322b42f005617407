"""Backbones with the heads that their checkpoints hold."""

import keras
from keras import layers, ops

EMBEDDING_SIZE = 128


def with_rotation_heads(backbone: keras.Model) -> keras.Model:
    """AlexNet with RFD's heads on its features `fc_block` [B, W].

    The outputs are the backbone's features, `rotation_logits` [B, 4], from the first half of `fc_block`, and
    `embedding` [B, 128], of unit length, from the second half.
    """
    rotation, invariant = ops.split(backbone.output["fc_block"], 2, axis=-1)
    projection = layers.Dense(EMBEDDING_SIZE, name="projection")(invariant)
    outputs = {
        **backbone.output,
        "rotation_logits": layers.Dense(4, name="rotation_head")(rotation),
        "embedding": layers.UnitNormalization(name="embedding")(projection),
    }
    return keras.Model(backbone.inputs[0], outputs, name=f"{backbone.name}_with_heads")


def with_classifier(backbone: keras.Model, classes: int = 10) -> keras.Model:
    """A CIFAR ResNet with its classifier: to the features come `logits` [B, classes]."""
    logits = layers.Dense(classes, name="classifier")(backbone.output["pool"])
    outputs = {**backbone.output, "logits": logits}
    return keras.Model(backbone.inputs[0], outputs, name=f"{backbone.name}_with_heads")
