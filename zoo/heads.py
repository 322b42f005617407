"""Backbones with the heads of their checkpoints, which the same file holds, or files of their own."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from rfd_tf.layers import CosineDense
from zoo.errors import WeightError

EMBEDDING_SIZE = 128
# Output of the head -> the keys of its arrays in PyTorch files. A cosine classifier has no bias.
ROTATION_HEADS = {
    "rotation_logits": ("fc_classifier.0.weight", "fc_classifier.0.bias"),
    "embedding": ("norm.0.weight", "norm.0.bias"),
}
CLASSIFIER = {"logits": ("linear.weight", "linear.bias")}


def with_rotation_heads(
    backbone: keras.Model, state: Mapping[str, np.ndarray], names: Collection[str] = tuple(ROTATION_HEADS)
) -> keras.Model:
    """AlexNet with RFD's heads on its features `fc_block` [B, W].

    The outputs are the backbone's features and, of those named, `rotation_logits` [B, 4], from the first half
    of `fc_block`, and `embedding` [B, 128], of unit length, from the second half.
    """
    rotation, invariant = ops.split(backbone.output["fc_block"], 2, axis=-1)
    outputs = dict(backbone.output)
    if "rotation_logits" in names:
        outputs["rotation_logits"] = layers.Dense(4, name="rotation_head")(rotation)
    if "embedding" in names:
        projection = layers.Dense(EMBEDDING_SIZE, name="projection")(invariant)
        outputs["embedding"] = layers.UnitNormalization(name="embedding")(projection)
    return keras.Model(backbone.inputs[0], outputs, name=f"{backbone.name}_with_heads")


def with_classifier(
    backbone: keras.Model,
    state: Mapping[str, np.ndarray],
    names: Collection[str] = tuple(CLASSIFIER),
    classes: int | None = None,
) -> keras.Model:
    """A CIFAR ResNet with its classifier: to the features come `logits` [B, classes].

    Where `state` has a `linear.weight` without a bias, it is the cosine classifier of the LDAM-DRW
    repository, a `rfd_tf.layers.CosineDense` with a kernel [64, classes]; its logits lie in [-1, 1].

    Args:
        backbone: with the feature `pool`.
        state: arrays of the checkpoint.
        names: of the heads.
        classes: how many; by default as many as `state` has.
    """
    features = backbone.output["pool"]
    cosine = "linear.weight" in state and "linear.bias" not in state
    if classes is None:
        shape = state["linear.weight"].shape if "linear.weight" in state else ()
        match (cosine, shape):
            case (True, (width, classes)) | (False, (classes, width)) if width == features.shape[-1]:
                classes = max(classes, 2)
            case _:  # the weight map will name what does not fit
                classes = 10
    logits = (CosineDense if cosine else layers.Dense)(classes, name="classifier")(features)
    outputs = {**backbone.output, "logits": logits}
    return keras.Model(backbone.inputs[0], outputs, name=f"{backbone.name}_with_heads")


def choose_heads(
    heads: Mapping[str, tuple[str, ...]], asked: bool | str, state: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """The outputs of the heads to convert.

    Args:
        heads: those of the architecture: output -> keys.
        asked: True for all of them, False for none, "auto" for those that `state` has.
        state: arrays of the checkpoint and of the heads' own files.

    Raises:
        WeightError: if all are asked for and one is not there.
    """
    present = tuple(name for name, keys in heads.items() if keys[0] in state)
    if asked == "auto" or not asked:
        return present if asked else ()
    if missing := [key for name, keys in heads.items() if name not in present for key in keys]:
        raise WeightError(
            f"holds no {', '.join(missing)}: give the files that do by `heads_from`, or leave out `heads`"
        )
    return present


def read_heads(
    files: Sequence[str | Path], heads: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of heads from PyTorch files of their own.

    Args:
        files: the original writes one for each network; one that holds both will do as well.
        heads: output -> keys.

    Returns:
        key -> array, and "FILE: key" of what else the files hold.

    Raises:
        ZooError: if a file cannot be read, holds no head, or one that an earlier file holds.
    """
    from zoo.torch_checkpoint import read_state_dict

    known = {key for keys in heads.values() for key in keys}
    found: dict[str, np.ndarray] = {}
    left_out: list[str] = []
    for file in files:
        if not Path(file).is_file():
            raise WeightError(f"{file}: there is no such file")
        own = read_state_dict(file)
        if not known & own.keys():
            raise WeightError(f"{file}: holds no head; the keys of heads are {', '.join(sorted(known))}")
        if twice := sorted(found.keys() & own.keys()):
            raise WeightError(f"{file}: holds {twice[0]}, as another file of `heads_from` does")
        found |= {key: own[key] for key in known & own.keys()}
        left_out += [f"{Path(file).name}: {key}" for key in own if key not in known]
    return found, tuple(left_out)
