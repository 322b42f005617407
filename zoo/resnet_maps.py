"""Weight map of the CIFAR ResNets: the layout of akamaster's repository."""

import keras

from zoo.transforms import CONVOLUTION, DENSE
from zoo.weight_map import Rule, WeightMap

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def torch_map(model: keras.Model, heads: bool) -> WeightMap:
    """`conv1`, `bn1`, `layer1.0.conv1`, ..., and `linear`, the classifier."""
    rules: list[Rule] = []
    counters: list[str] = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            name = layer.name.removesuffix("_conv")
            convolution, norm = _source_names(name)
            rules.append(Rule(f"{convolution}.weight", f"{name}_conv/kernel", CONVOLUTION))
            rules += [Rule(f"{norm}.{key}", f"{name}_bn/{part}") for part, key in _NORM.items()]
            counters.append(f"{norm}.num_batches_tracked")
    head = (Rule("linear.weight", "classifier/kernel", DENSE), Rule("linear.bias", "classifier/bias"))
    left_out = () if heads else tuple(rule.source for rule in head)
    return WeightMap((*rules, *(head if heads else ())), tuple(counters), left_out)


def _source_names(name: str) -> tuple[str, str]:
    """`block2_unit0_1` -> (`layer2.0.conv1`, `layer2.0.bn1`)."""
    if name == "conv1":
        return "conv1", "bn1"
    block, unit, number = name.split("_")
    prefix = f"layer{block.removeprefix('block')}.{unit.removeprefix('unit')}"
    return f"{prefix}.conv{number}", f"{prefix}.bn{number}"
