"""The networks that the zoo can fill: how to build them, and which weight maps they have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np

from rfd_tf.models import alexnet, resnet_cifar
from rfd_tf.models.keras_file import blank_start
from rfd_tf.precision import float32_policy
from zoo import weight_maps
from zoo.errors import WeightError, ZooError
from zoo.heads import CLASSIFIER, ROTATION_HEADS, with_classifier, with_rotation_heads
from zoo.weight_maps import WeightMap

DEPTHS = (20, 32, 44, 56, 110)
_HEAD_LAYERS = frozenset({"rotation_head", "projection", "classifier"})


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
        """A backbone to be filled with weights, in float32, with the heads of those names.

        Args:
            options: `classes` among them is for the classifier, the others are for the backbone's builder.
            heads: names of outputs.
            state: the checkpoint's arrays, which tell the heads' kind and size.
        """
        options = dict(options)
        head_options = {"classes": options.pop("classes")} if "classes" in options else {}
        with float32_policy():
            with blank_start():
                backbone = self.build(**options)
            return (
                self.add_heads(backbone, state or {}, heads, **head_options)
                if heads and self.add_heads
                else backbone
            )

    def weight_map(self, source: str, model: keras.Model) -> WeightMap:
        """The map between files of `source` (`torch` or `caffe`) and `model`.

        Raises:
            WeightError: if there is none.
        """
        if source not in self.maps:
            raise WeightError(f"{self.name} has no {source} form; it has: {', '.join(self.maps)}")
        return self.maps[source](model)


def has_heads(model: keras.Model) -> bool:
    """Whether `model` holds the heads of a checkpoint beside the backbone."""
    return any(layer.name in _HEAD_LAYERS for layer in model.layers)


_ALEXNET_MAPS = {"torch": weight_maps.alexnet_torch_map, "caffe": weight_maps.alexnet_caffe_map}


def architecture(name: str) -> Architecture:
    """The architecture of that name: `alexnet`, `alexnet_no_bn`, `resnet20` ... `resnet110`.

    Raises:
        ZooError: if there is none.
    """
    if name == "alexnet":
        return Architecture(name, alexnet, with_rotation_heads, _ALEXNET_MAPS, ROTATION_HEADS)
    if name == "alexnet_no_bn":
        return Architecture(name, _alexnet_no_bn, None, _ALEXNET_MAPS)
    if name in (f"resnet{depth}" for depth in DEPTHS):
        depth = int(name.removeprefix("resnet"))
        maps = {"torch": weight_maps.resnet_torch_map}
        return Architecture(name, _resnet_builder(depth), with_classifier, maps, CLASSIFIER)
    known = ", ".join(("alexnet", "alexnet_no_bn", *(f"resnet{depth}" for depth in DEPTHS)))
    raise ZooError(f"Unknown architecture {name!r}; known: {known}")


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


def _alexnet_no_bn(**options) -> keras.Model:
    return alexnet(use_batch_norm=False, **options)


def _resnet_builder(depth: int) -> Callable[..., keras.Model]:
    return lambda **options: resnet_cifar(depth, **options)
