"""Which array of a source file is which Keras weight, and how its axes change between the two."""

from collections.abc import Callable, Iterable, Mapping
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

    def to_keras(array: np.ndarray) -> np.ndarray:
        grid = array.reshape(-1, channels, height, width)
        return grid.transpose(2, 3, 1, 0).reshape(height * width * channels, -1)

    def to_source(array: np.ndarray) -> np.ndarray:
        grid = array.reshape(height, width, channels, -1)
        return grid.transpose(3, 2, 0, 1).reshape(-1, channels * height * width)

    return Transform(to_keras, to_source)


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
        """Set every variable of `model` from `state`; nothing is set unless everything fits.

        Args:
            state: source key -> array.
            model: a Keras model.

        Raises:
            WeightError: as `check`.
        """
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
        """The source's state of `model`: the inverse of `load`.

        Args:
            model: a Keras model.
            counters: values of `counters`, where they are known.

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


_CONVOLUTIONS = {"conv1": 0, "conv2": 2, "conv3": 4, "conv4": 5, "conv5": 6}  # layer: index of its block
_DENSE = {"fc6": 1, "fc7": 4}  # layer: position within block 8
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
    rules: list[Rule] = []
    counters: list[str] = []
    for layer, kernel_transform in _layers(model).items():
        prefix = (
            f"_feature_blocks.{_CONVOLUTIONS[layer]}." if layer in _CONVOLUTIONS else "_feature_blocks.8."
        )
        position = _DENSE.get(layer, 0)
        rules += _kernel_and_bias(
            model, layer, kernel_transform, f"{prefix}{position}.{{}}", "weight", "bias"
        )
        if _has_norm(model, layer):
            norm = f"{prefix}{position + 1}."
            rules += [Rule(norm + key, f"{layer}_bn/{part}") for part, key in _TORCH_NORM.items()]
            counters.append(norm + "num_batches_tracked")
    present = {layer.name for layer in model.layers}
    left_out: list[str] = []
    for head, source in _HEADS.items():
        if head in present:
            rules += _kernel_and_bias(model, head, DENSE, f"{source}.{{}}", "weight", "bias")
        else:
            left_out += [f"{source}.weight", f"{source}.bias"]
    return WeightMap(tuple(rules), tuple(counters), tuple(left_out))


def alexnet_caffe_map(model: keras.Model) -> WeightMap:
    """Caffe's layers `conv1` ... `fc7`; a batch norm is a BatchNorm `X_bn` and a Scale `X_scale`.

    Raises:
        WeightError: if the model has heads: the Caffe form has none.
    """
    if any(layer.name in _HEADS for layer in model.layers):
        raise WeightError("The Caffe form has no heads: convert the backbone alone")
    rules: list[Rule] = []
    for layer, kernel_transform in _layers(model).items():
        rules += _kernel_and_bias(model, layer, kernel_transform, f"{layer}/{{}}", "0", "1")
        if _has_norm(model, layer):
            rules += [Rule(f"{layer}_{key}", f"{layer}_bn/{part}") for part, key in _CAFFE_NORM.items()]
    return WeightMap(tuple(rules))


def _layers(model: keras.Model) -> dict[str, Transform]:
    """The kernels' transforms of the layers that the model has, from conv1 to fc7."""
    present = {layer.name for layer in model.layers}
    transforms = {name: CONVOLUTION for name in _CONVOLUTIONS if f"{name}_conv" in present}
    if "fc6" in present:
        _, height, width, channels = model.get_layer("flatten").input.shape
        transforms |= {"fc6": dense_after_flatten(height, width, channels), "fc7": DENSE}
    return transforms


def _kernel_and_bias(
    model, layer: str, transform: Transform, source: str, kernel: str, bias: str
) -> list[Rule]:
    keras_name = f"{layer}_conv" if layer in _CONVOLUTIONS else layer
    rules = [Rule(source.format(kernel), f"{keras_name}/kernel", transform)]
    if model.get_layer(keras_name).use_bias:
        rules.append(Rule(source.format(bias), f"{keras_name}/bias"))
    return rules


def _has_norm(model: keras.Model, layer: str) -> bool:
    return any(candidate.name == f"{layer}_bn" for candidate in model.layers)


_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def resnet_torch_map(model: keras.Model) -> WeightMap:
    """`conv1`, `bn1`, `layer1.0.conv1`, ..., and `linear`, the classifier, where `model` has it.

    A dense classifier is `linear.weight` [C, 64] with `linear.bias`, LDAM-DRW's cosine classifier
    `linear.weight` [64, C] alone.
    """
    rules: list[Rule] = []
    counters: list[str] = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            name = layer.name.removesuffix("_conv")
            convolution, norm = _source_names(name)
            rules.append(Rule(f"{convolution}.weight", f"{name}_conv/kernel", CONVOLUTION))
            rules += [Rule(f"{norm}.{key}", f"{name}_bn/{part}") for part, key in _NORM.items()]
            counters.append(f"{norm}.num_batches_tracked")
    classifier = next((layer for layer in model.layers if layer.name == "classifier"), None)
    if classifier is None:
        return WeightMap(tuple(rules), tuple(counters), ("linear.weight", "linear.bias"))
    if isinstance(classifier, CosineDense):
        rules.append(Rule("linear.weight", "classifier/kernel"))
    else:
        rules += [Rule("linear.weight", "classifier/kernel", DENSE), Rule("linear.bias", "classifier/bias")]
    return WeightMap(tuple(rules), tuple(counters))


def _source_names(name: str) -> tuple[str, str]:
    """`block2_unit0_1` -> (`layer2.0.conv1`, `layer2.0.bn1`)."""
    if name == "conv1":
        return "conv1", "bn1"
    block, unit, number = name.split("_")
    prefix = f"layer{block.removeprefix('block')}.{unit.removeprefix('unit')}"
    return f"{prefix}.conv{number}", f"{prefix}.bn{number}"
