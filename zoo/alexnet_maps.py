"""Weight maps of AlexNet: the released PyTorch layout, and Caffe's."""

import keras

from zoo.errors import WeightError
from zoo.transforms import CONVOLUTION, DENSE, Transform, dense_after_flatten
from zoo.weight_map import Rule, WeightMap

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


def torch_map(model: keras.Model) -> WeightMap:
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


def caffe_map(model: keras.Model) -> WeightMap:
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
