"""Backbones of other libraries and of one's own: features by name from any functional Keras model."""

import difflib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Sequence

import keras
from keras import layers

from rfd_tf.keras_internals import all_layers, consumers
from rfd_tf.models.backbone import check_feature_names, dense_block
from rfd_tf.models.keras_file import network_copy

STAGES = {4: "stage2", 8: "stage3", 16: "stage4", 32: "stage5"}  # by stride
DENSE_WIDTH = 256  # of fc_block, as on top of the CIFAR ResNets
MOST_MOMENTUM = 0.9  # of batch norm's running statistics, as in our own networks
# Both libraries would download these numbers: (blocks of each stage, whether they are bottlenecks).
_RESNETS = {
    "ResNet18": ((2, 2, 2, 2), False),
    "ResNet34": ((3, 4, 6, 3), False),
    "ResNet50": ((3, 4, 6, 3), True),
    "ResNet101": ((3, 4, 23, 3), True),
    "ResNet152": ((3, 8, 36, 3), True),
}
_RESNET_FILTERS, _RESNET_STRIDES = [64, 128, 256, 512], [1, 2, 2, 2]


def named_features(
    model: keras.Model,
    feature_names: Sequence[str] | None = None,
    *,
    dense_width: int = 0,
    synchronized: bool = False,
) -> keras.Model:
    """Make a backbone of any functional Keras model with one input [B, H, W, C].

    The features of a model with a dict of outputs are those. Of another one they are `stage2` ... `stage5`,
    the last maps at strides 4, 8, 16 and 32, as far as there are such; and `pool`, its output, averaged over
    space where that is a map. On request there is `fc_block` [B, dense_width]: two dense layers on `pool`,
    as on top of the CIFAR ResNets (`models.resnet_cifar`).

    The model is not changed. Weights are shared with it, but for `synchronized`: then the backbone has copies
    of its layers.

    Args:
        model: with a fixed size of input, if its stages are to be found.
        feature_names: any of its features, in any order; by default all, with `fc_block` if there is a
            `dense_width`.
        dense_width: units of the two dense layers of `fc_block`; 0 is 256.
        synchronized: whether batch norm takes its statistics over all replicas of a `tf.distribute` strategy.

    Raises:
        ValueError: if `model` is not functional, has several inputs, or on an unknown or repeated feature.

    Example:
        >>> backbone = named_features(keras.applications.ResNet50(weights=None, include_top=False))
        >>> backbone = named_features(network_of_yours, ["stage4", "fc_block"], dense_width=512)
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(f"A backbone must be a functional Keras model. Received: {model!r}")
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        shapes = [tuple(tensor.shape) for tensor in model.inputs]
        raise ValueError(f"A backbone must have one input [B, H, W, C]; those of {model.name!r} are {shapes}")
    features = _features(model)
    has_block = "fc_block" in features  # of its own
    available = [*features, *([] if has_block or "pool" not in features else ["fc_block"])]
    defaults = available if dense_width else list(features)
    names = check_feature_names(defaults if feature_names is None else feature_names, available)
    backbone = keras.Model(model.inputs[0], features, name=model.name)
    if synchronized:
        backbone = network_copy(backbone, list(features), synchronized=True)
        features = backbone.output
    if "fc_block" in names and not has_block:
        width = dense_width or DENSE_WIDTH
        features = {**features, "fc_block": dense_block(features["pool"], width, synchronized=synchronized)}
    elif dense_width and not has_block:
        raise ValueError(f"`dense_width` is of `fc_block`, which is not among {', '.join(names)}")
    return keras.Model(backbone.inputs[0], {name: features[name] for name in names}, name=model.name)


def _features(model: keras.Model) -> dict:
    output = model.output
    features = dict(output) if isinstance(output, dict) else {**_stages(model), "pool": output}
    last = list(features.values())[-1]
    if isinstance(last, (list, tuple)) or len(last.shape) not in (2, 4):
        raise ValueError(
            f"A backbone must give a map [B, H, W, C], a vector [B, D], or a dict of such. {model.name!r} "
            f"gives {output}"
        )
    if len(last.shape) == 4 and (not isinstance(output, dict) or "pool" not in features):
        features["pool"] = layers.GlobalAveragePooling2D(name="pool")(last)
    return features


def _stages(model: keras.Model) -> dict:
    """The last map at each stride through which everything passes, by the name of its stage."""
    size = model.inputs[0].shape[1:3]
    if None in size:
        return {}
    if named := _pyramid(model):
        return named
    found = {}
    for layer in _bottlenecks(model):
        output = layer.output
        if isinstance(layer, layers.ZeroPadding2D) or not hasattr(output, "shape") or len(output.shape) != 4:
            continue
        stride = 2 ** round(math.log2(max(size) / max(1, max(output.shape[1:3]))))
        if stride in STAGES:
            found[STAGES[stride]] = output
    return found


def _pyramid(model: keras.Model) -> dict:
    """The levels P2 ... P5 of a network of KerasHub or KerasCV, as it names them itself."""
    levels = dict(getattr(model, "pyramid_outputs", {}))
    for level, layer in getattr(model, "pyramid_level_inputs", {}).items():
        levels[level] = model.get_layer(layer).output
    named = {stage: levels.get(f"P{stage[-1]}") for stage in STAGES.values()}
    return {stage: tensor for stage, tensor in named.items() if tensor is not None}


def _bottlenecks(model: keras.Model) -> list:
    """The layers that every path from input to output passes, in order."""
    inside = {id(layer) for layer in model.layers}
    place = {id(layer): number for number, layer in enumerate(model.layers)}
    found, reach = [], 0
    for number, layer in enumerate(model.layers):
        if reach <= number:
            found.append(layer)
        followers = [place[id(follower)] for follower in consumers(layer) if id(follower) in inside]
        reach = max([reach, *followers])
    return found


def library_model(name: str, input_shape: tuple[int, int, int]) -> keras.Model | None:
    """A freshly initialised network of `keras.applications`, `keras_cv`, `keras_hub`, or `module:function`.

    None for any other name. Batch norms of the libraries' networks take at least a tenth of each batch into
    their running statistics, as ours; those of one's own function stay as they are.

    Raises:
        ImportError: if the library or module is not there.
        ValueError: if there is no such network in it, or it is not a functional model.
    """
    for prefix, build in _LIBRARIES.items():
        if name.startswith(prefix):
            return _of_prompt_statistics(build(name.removeprefix(prefix), input_shape))
    if ":" in name:
        return imported(name, "backbone.name")(input_shape)
    return None


def imported(name: str, field: str, what: str = "function") -> Callable:
    """The function that `module:function` names; a module in the current folder will do.

    Raises:
        ValueError: naming `field`, where there is no such module or function. The message says which.
    """
    module_name, colon, function = name.partition(":")
    if not (module_name and colon and function):
        raise ValueError(f"`{field}` must be 'module:{what}'. Received: {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # an installed command does not look there
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module does when it is imported
        raise ValueError(
            f"`{field}`: {module_name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, function):
        near = difflib.get_close_matches(function, dir(module), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{field}`: {module_name!r} has no {function!r}{hint}")
    found = getattr(module, function)
    if not callable(found):
        raise ValueError(f"`{field}`: {name!r} is not callable. Received: {found!r}")
    return found


def _application(name: str, input_shape) -> keras.Model:
    build = _found(keras.applications, name)
    options = {"weights": None, "include_top": False, "input_shape": input_shape}
    if "include_preprocessing" in inspect.signature(build).parameters:
        options["include_preprocessing"] = False
    return _of_normalized_images(build(**options))


def _of_normalized_images(model: keras.Model) -> keras.Model:
    """The model without the rescaling and normalising at its input, which EfficientNet always has."""
    # A normalised image divided by 255 drowns in the epsilon of the first batch norm.
    kinds = (layers.Rescaling, layers.Normalization)
    if not any(isinstance(layer, kinds) for layer in model.layers):
        return model

    def bypassed(layer):
        if isinstance(layer, kinds):
            return layers.Identity(name=layer.name)
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=bypassed)


def _of_prompt_statistics(model: keras.Model) -> keras.Model:
    """The model, just made, with batch norms that settle within some dozens of steps."""
    # At 0.999, as in MobileNet, a third of the initial statistics is left after 1,000 steps, and inference
    # differs from training as long.
    for layer in all_layers(model):
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = min(layer.momentum, MOST_MOMENTUM)
    return model


def _keras_cv(name: str, input_shape) -> keras.Model:
    blocks, bottleneck = _resnet("keras_cv", name)
    import keras_cv  # takes seconds

    return keras_cv.models.ResNetBackbone(
        stackwise_filters=_RESNET_FILTERS,
        stackwise_blocks=list(blocks),
        stackwise_strides=_RESNET_STRIDES,
        block_type="block" if bottleneck else "basic_block",
        include_rescaling=False,
        input_shape=input_shape,
        name=name.lower(),
    )


def _keras_hub(name: str, input_shape) -> keras.Model:
    blocks, bottleneck = _resnet("keras_hub", name)
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(f"The backbone keras_hub.{name} needs: pip install 'rfd_tf[keras-hub]'") from error
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=_RESNET_FILTERS,
        stackwise_num_blocks=list(blocks),
        stackwise_num_strides=_RESNET_STRIDES,
        block_type="bottleneck_block" if bottleneck else "basic_block",
        image_shape=input_shape,
        name=name.lower(),
    )


def _resnet(library: str, name: str) -> tuple[tuple[int, ...], bool]:
    if name not in _RESNETS:
        raise ValueError(
            f"{library}.NAME must be one of {', '.join(_RESNETS)}. Received: {name!r}. Build others in a "
            "function of yours: backbone.name=module:function"
        )
    return _RESNETS[name]


def _found(module, name: str) -> Callable:
    build = getattr(module, name, None)
    if not callable(build):
        raise ValueError(f"{module.__name__} has no model {name!r}")
    return build


_LIBRARIES = {"keras.applications.": _application, "keras_cv.": _keras_cv, "keras_hub.": _keras_hub}
