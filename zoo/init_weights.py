"""Initial weights of a backbone, by a zoo name or a file."""

from pathlib import Path

import keras
from absl import logging

from zoo.architectures import architecture_of
from zoo.errors import WeightError, ZooError
from zoo.exporting import read_keras
from zoo.sources import kind_of, read_source

PREFIX = "zoo:"


def resolve_init(spec: str | Path, backbone: keras.Model) -> None:
    """Set all weights of `backbone` from a zoo entry or a file; nothing is set unless everything fits.

    Of a CIFAR ResNet with the feature `fc_block`, whose dense layers no published checkpoint holds, those
    stay as initialised where the source lacks them; the log names their variables.

    Args:
        spec: `zoo:NAME`, or the path of a `.keras`, `.pth`, `.pth.tar`, `.pt`, `.th`, `.caffemodel` or
            `.caffemodel.h5` file. A `.keras` file may also hold a model with an attribute `backbone`.
        backbone: an AlexNet or CIFAR ResNet of ours; from `.keras` files any functional model.

    Raises:
        ZooError: if it cannot be had or read, or a name or shape does not fit.

    Example:
        >>> zoo.resolve_init("zoo:rfd_alexnet_imagenet", backbone)
    """
    if str(spec).startswith(PREFIX):
        from zoo.loading import load

        _copy(load(str(spec).removeprefix(PREFIX)), backbone, str(spec))
    elif (kind := kind_of(spec)) == "keras":
        model = read_keras(spec)
        _copy(getattr(model, "backbone", model), backbone, str(spec))
    else:
        published = _published_part(backbone)
        weight_map = architecture_of(backbone).weight_map(kind, published)
        source = read_source(spec, kind)
        try:
            state, spare = source.arrays(rule.source for rule in weight_map.rules)
            weight_map.load(state, published)
        except ZooError as error:
            raise type(error)(f"{spec}: {error}") from error
        left_out = [*(key for key in weight_map.left_out if key in state), *spare]
        for what, names in (("left out", left_out), ("not read", source.unread)):
            if names:
                logging.info("%s: %s: %s", spec, what, ", ".join(names))
        _log_fresh(str(spec), backbone, _variables(published))


def _copy(source: keras.Model, target: keras.Model, name: str) -> None:
    values, variables = _variables(source), _variables(target)
    published = _variables(_published_part(target))
    if values.keys() == published.keys():
        variables = published
    if values.keys() != variables.keys():
        missing = sorted(variables.keys() - values.keys())[:4]
        extra = sorted(values.keys() - variables.keys())[:4]
        raise WeightError(
            f"{name} does not fit the network {target.name!r}: it lacks {missing}, it has besides {extra}"
        )
    for path, variable in variables.items():
        if values[path].shape != variable.shape:
            raise WeightError(
                f"{name}: {path!r} has shape {values[path].shape}, the network needs {variable.shape}"
            )
    for path, variable in variables.items():
        variable.assign(values[path])
    _log_fresh(name, target, variables)


def _variables(model: keras.Model) -> dict:
    return {variable.path: variable for variable in model.weights}


def _published_part(backbone: keras.Model) -> keras.Model:
    """Of a CIFAR ResNet the layers up to `pool`, without the dense block; any other network as it is."""
    names = {layer.name for layer in backbone.layers}
    if not {"block1_unit0_1_conv", "pool", "fc6"} <= names:
        return backbone
    return keras.Model(backbone.inputs[0], backbone.get_layer("pool").output, name=backbone.name)


def _log_fresh(name: str, backbone: keras.Model, was_set: dict) -> None:
    if fresh := sorted(_variables(backbone).keys() - was_set.keys()):
        logging.info("%s lacks these variables, which stay as initialised: %s", name, ", ".join(fresh))
