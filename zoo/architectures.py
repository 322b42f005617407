"""The networks of the zoo, how they are built, and their heads."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from rfd_tf.layers import CosineDense
from rfd_tf.models import alexnet, resnet_cifar
from rfd_tf.models.keras_file import blank_start
from rfd_tf.precision import float32_policy
from zoo import weight_maps
from zoo.errors import WeightError, ZooError
from zoo.torch_checkpoint import read_state_dict
from zoo.weight_maps import WeightMap

EMBEDDING_SIZE = 128
# Output of the head -> the keys of its arrays in PyTorch files. A cosine classifier has no bias.
ROTATION_HEADS = {
    "rotation_logits": ("fc_classifier.0.weight", "fc_classifier.0.bias"),
    "embedding": ("norm.0.weight", "norm.0.bias"),
}
CLASSIFIER = {"logits": ("linear.weight", "linear.bias")}
_HEAD_LAYERS = ("rotation_head", "projection", "classifier")
_ALEXNET_MAPS = {"torch": weight_maps.alexnet_torch_map, "caffe": weight_maps.alexnet_caffe_map}


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

    `classes` is by default as many as `state` has.
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
    """The outputs of the heads to convert: all (`asked` True), none (False), or those in `state` ("auto").

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
    """The arrays of heads from PyTorch files of their own, and "FILE: key" of what else the files hold.

    The original writes one file for each network; one that holds both will do as well.

    Raises:
        ZooError: if a file cannot be read, holds no head, or one that an earlier file holds.
    """
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


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Args:
        name: as in an entry's `architecture`.
        build: (**options) -> freshly initialised backbone.
        add_heads: (backbone, the checkpoint's arrays, names of heads, **options) -> the same with them.
        maps: source (`torch`, `caffe`) -> model -> weight map.
        heads: of its checkpoints: output -> the keys of its arrays.
    """

    name: str
    build: Callable[..., keras.Model]
    add_heads: Callable[..., keras.Model] | None
    maps: Mapping[str, Callable[[keras.Model], WeightMap]]
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def model(
        self,
        options: Mapping[str, int],
        heads: Sequence[str] = (),
        state: Mapping[str, np.ndarray] | None = None,
    ) -> keras.Model:
        """A backbone to be filled with weights, in float32, with the heads of those outputs.

        Of the options `classes` is for the classifier, the others are for the backbone's builder. `state`,
        the checkpoint's arrays, tells the heads' kind and size.
        """
        options = dict(options)
        head_options = {"classes": options.pop("classes")} if "classes" in options else {}
        with float32_policy():
            with blank_start():
                backbone = self.build(**options)
            if not heads or self.add_heads is None:
                return backbone
            return self.add_heads(backbone, state or {}, heads, **head_options)

    def weight_map(self, source: str, model: keras.Model) -> WeightMap:
        """The map between files of `source` (`torch` or `caffe`) and `model`; WeightError without one."""
        if source not in self.maps:
            raise WeightError(f"{self.name} has no {source} form; it has: {', '.join(self.maps)}")
        return self.maps[source](model)


def has_heads(model: keras.Model) -> bool:
    """Whether `model` holds the heads of a checkpoint beside the backbone."""
    return any(layer.name in _HEAD_LAYERS for layer in model.layers)


def architecture(name: str) -> Architecture:
    """The architecture of that name: `alexnet`, `alexnet_no_bn`, `resnet20` ... `resnet110`.

    Raises:
        ZooError: if there is none.
    """
    if name == "alexnet":
        return Architecture(name, alexnet, with_rotation_heads, _ALEXNET_MAPS, ROTATION_HEADS)
    if name == "alexnet_no_bn":
        return Architecture(name, partial(alexnet, use_batch_norm=False), None, _ALEXNET_MAPS)
    resnets = {f"resnet{depth}": partial(resnet_cifar, depth) for depth in (20, 32, 44, 56, 110)}
    if name in resnets:
        maps = {"torch": weight_maps.resnet_torch_map}
        return Architecture(name, resnets[name], with_classifier, maps, CLASSIFIER)
    raise ZooError(f"Unknown architecture {name!r}; known: alexnet, alexnet_no_bn, {', '.join(resnets)}")


def architecture_of(model: keras.Model) -> Architecture:
    """Which architecture a model is, told by its layers' names.

    Raises:
        ZooError: if it is none of the zoo's.
    """
    names = {layer.name for layer in model.layers}
    if "conv5_conv" in names:
        return architecture("alexnet" if "conv1_bn" in names else "alexnet_no_bn")
    units = sum(f"block1_unit{unit}_1_conv" in names for unit in range(len(names)))
    if units:
        return architecture(f"resnet{6 * units + 2}")
    raise ZooError(
        f"The model {model.name!r} is no AlexNet and no CIFAR ResNet: the zoo has no weight map for it"
    )
