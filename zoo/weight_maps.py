"""Which array of a source file is which Keras weight, and how its axes change between the two."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import keras
import numpy as np

from rfd_tf.layers import CosineDense
from zoo.errors import WeightError


@dataclass(frozen=True)
class Transform:
    """A reversible change of layout.

    Args:
        to_keras: source array -> Keras array; ValueError where the array has another number of axes.
        to_source: its inverse.
    """

    to_keras: Callable[[np.ndarray], np.ndarray]
    to_source: Callable[[np.ndarray], np.ndarray]


def _transposed(*axes: int) -> Transform:
    inverse = tuple(int(axis) for axis in np.argsort(axes))
    return Transform(lambda a: np.transpose(a, axes), lambda a: np.transpose(a, inverse))


IDENTITY = Transform(lambda a: a, lambda a: a)
CONVOLUTION = _transposed(2, 3, 1, 0)  # [out, in, kh, kw] <-> [kh, kw, in, out]
DENSE = _transposed(1, 0)  # [out, in] <-> [in, out]


def dense_after_flatten(height: int, width: int, channels: int) -> Transform:
    """A dense kernel behind a flatten: [out, C*H*W] <-> [H*W*C, out]."""

    size = height * width * channels
    return Transform(
        lambda a: a.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(size, -1),
        lambda a: a.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(-1, size),
    )


@dataclass(frozen=True)
class Rule:
    """One array of the source is one variable of the Keras model."""

    source: str
    variable: str
    transform: Transform = IDENTITY


@dataclass(frozen=True)
class WeightMap:
    """All rules between a file's arrays and a model's variables.

    Args:
        rules: one for every variable.
        counters: source keys that hold no weight (`num_batches_tracked`): they may be absent, are dropped on
            the way in, and written as they were, or as zero, on the way out.
        left_out: source keys that may be there and are not wanted (the heads, when only the backbone is).
    """

    rules: tuple[Rule, ...]
    counters: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def load(self, state: Mapping[str, np.ndarray], model) -> None:
        """Set every variable of `model` from `state`; nothing is set unless all fits, as by `check`."""
        variables = self.check(state, model)
        for rule in self.rules:
            array = np.asarray(state[rule.source], "float32")
            variables[rule.variable].assign(rule.transform.to_keras(array))

    def check(self, state: Mapping[str, np.ndarray], model) -> dict:
        """The variables of `model` by their paths, for each of which `state` has the array that it needs.

        Raises:
            WeightError: on a missing or unused source key, a variable without a rule, another shape, an
                array that is not of floating point, or a value that is not finite.
        """
        variables = self._variables(model)
        sources = {rule.source for rule in self.rules}
        _refuse("The file lacks", sources - state.keys())
        _refuse(
            f"The network {model.name!r} has no place for",
            state.keys() - sources - {*self.counters, *self.left_out},
        )
        for rule in self.rules:
            _check(rule, state[rule.source], variables[rule.variable].shape)
        self.counts(state)
        return variables

    def counts(self, state: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The values of those counters that `state` has; WeightError where one is not a whole number."""
        arrays = {key: state[key] for key in self.counters if key in state}
        for key, array in arrays.items():
            if array.shape != () or array.dtype.kind not in "iu":
                raise WeightError(f"{key!r} must be one integer. Received: {array.dtype} {array.shape}")
        return {key: int(array) for key, array in arrays.items()}

    def state(self, model, counters: Mapping[str, int] | None = None) -> dict[str, np.ndarray]:
        """The source's state of `model`, with the values of counters that are known: the inverse of `load`.

        Raises:
            WeightError: if rules and variables do not match.
        """
        variables = self._variables(model)
        state = {}
        for rule in self.rules:
            array = np.asarray(variables[rule.variable].numpy(), "float32")
            state[rule.source] = np.ascontiguousarray(rule.transform.to_source(array))
        counters = counters or {}
        state.update({key: np.array(counters.get(key, 0), "int64") for key in self.counters})
        return state

    def _variables(self, model) -> dict:
        variables = {variable.path: variable for variable in model.weights}
        named = {rule.variable for rule in self.rules}
        _refuse("The weight map has no rule for the variables", variables.keys() - named)
        _refuse(f"The network {model.name!r} has no variables", named - variables.keys())
        return variables


def _refuse(what: str, names: Iterable[str]) -> None:
    if names := sorted(names):
        listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise WeightError(f"{what} ({len(names)}): {listed}")


def _check(rule: Rule, array: np.ndarray, wanted: tuple[int, ...]) -> None:
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise WeightError(f"{rule.source!r} is of type {array.dtype}; weights are floating point numbers")
    source_shape = rule.transform.to_source(np.empty(wanted, "bool")).shape
    if array.shape != source_shape:
        raise WeightError(f"{rule.source!r} has shape {array.shape}, the network needs {source_shape}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.asarray(array, "float32")).all()
    if not finite:
        raise WeightError(f"{rule.source!r} has values that are NaN, infinite or beyond float32")


# Layer -> its block and position in `_feature_blocks`.
_PLACES = {
    "conv1": (0, 0),
    "conv2": (2, 0),
    "conv3": (4, 0),
    "conv4": (5, 0),
    "conv5": (6, 0),
    "fc6": (8, 1),
    "fc7": (8, 4),
}
_HEADS = {"rotation_head": "fc_classifier.0", "projection": "norm.0"}
_TORCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_CAFFE_NORM = {"moving_mean": "bn/0", "moving_variance": "bn/1", "gamma": "scale/0", "beta": "scale/1"}


def alexnet_torch_map(model: keras.Model) -> WeightMap:
    """The map of the released checkpoints: `_feature_blocks.BLOCK.POSITION.*`, and the model's heads.

    Without batch norm the dense layers have biases; the other positions stay as they are.
    """
    present = _layer_names(model)
    rules: list[Rule] = []
    counters: list[str] = []
    left_out: list[str] = []
    for name, layer, transform in _alexnet_layers(model):
        block, position = _PLACES[name]
        kernel, norm = f"_feature_blocks.{block}.{position}.", f"_feature_blocks.{block}.{position + 1}."
        rules += _kernel_and_bias(layer, transform, kernel + "weight", kernel + "bias")
        if f"{name}_bn" in present:
            rules += [Rule(norm + key, f"{name}_bn/{part}") for part, key in _TORCH_NORM.items()]
            counters.append(norm + "num_batches_tracked")
    for head, source in _HEADS.items():
        keys = (f"{source}.weight", f"{source}.bias")
        if head in present:
            rules += _kernel_and_bias(model.get_layer(head), DENSE, *keys)
        else:
            left_out += keys
    return WeightMap(tuple(rules), tuple(counters), tuple(left_out))


def alexnet_caffe_map(model: keras.Model) -> WeightMap:
    """Caffe's layers `conv1` ... `fc7`; a batch norm is a BatchNorm `X_bn` and a Scale `X_scale`.

    Raises:
        WeightError: if the model has heads: the Caffe form has none.
    """
    present = _layer_names(model)
    if not present.isdisjoint(_HEADS):
        raise WeightError("The Caffe form has no heads: convert the backbone alone")
    rules: list[Rule] = []
    for name, layer, transform in _alexnet_layers(model):
        rules += _kernel_and_bias(layer, transform, f"{name}/0", f"{name}/1")
        if f"{name}_bn" in present:
            rules += [Rule(f"{name}_{key}", f"{name}_bn/{part}") for part, key in _CAFFE_NORM.items()]
    return WeightMap(tuple(rules))


def _layer_names(model: keras.Model) -> set[str]:
    return {layer.name for layer in model.layers}


def _alexnet_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer, Transform]]:
    """Name, layer and its kernel's transform, of those of conv1 to fc7 that the model has."""
    present = _layer_names(model)
    for name in _PLACES:
        if f"{name}_conv" in present:
            yield name, model.get_layer(f"{name}_conv"), CONVOLUTION
        elif name == "fc6" and name in present:
            yield (
                name,
                model.get_layer(name),
                dense_after_flatten(*model.get_layer("flatten").input.shape[1:]),
            )
        elif name in present:
            yield name, model.get_layer(name), DENSE


def _kernel_and_bias(layer, transform: Transform, kernel: str, bias: str) -> list[Rule]:
    rules = [Rule(kernel, f"{layer.name}/kernel", transform)]
    return [*rules, Rule(bias, f"{layer.name}/bias")] if layer.use_bias else rules


def resnet_torch_map(model: keras.Model) -> WeightMap:
    """`conv1`, `bn1`, `layer1.0.conv1`, ..., and `linear`, the classifier, where `model` has it.

    A dense classifier is `linear.weight` [C, 64] with `linear.bias`, LDAM-DRW's cosine classifier
    `linear.weight` [64, C] alone.
    """
    rules: list[Rule] = []
    counters: list[str] = []
    left_out: tuple[str, ...] = ("linear.weight", "linear.bias")
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            name = layer.name.removesuffix("_conv")
            convolution, norm = _source_names(name)
            rules.append(Rule(f"{convolution}.weight", f"{layer.name}/kernel", CONVOLUTION))
            rules += [Rule(f"{norm}.{key}", f"{name}_bn/{part}") for part, key in _TORCH_NORM.items()]
            counters.append(f"{norm}.num_batches_tracked")
        elif isinstance(layer, CosineDense):
            rules.append(Rule("linear.weight", f"{layer.name}/kernel"))
            left_out = ()
        elif layer.name == "classifier":
            rules += _kernel_and_bias(layer, DENSE, *left_out)
            left_out = ()
    return WeightMap(tuple(rules), tuple(counters), left_out)


def _source_names(name: str) -> tuple[str, str]:
    """`block2_unit0_1` -> (`layer2.0.conv1`, `layer2.0.bn1`)."""
    if name == "conv1":
        return "conv1", "bn1"
    block, unit, number = name.split("_")
    prefix = f"layer{block.removeprefix('block')}.{unit.removeprefix('unit')}"
    return f"{prefix}.conv{number}", f"{prefix}.bn{number}"
