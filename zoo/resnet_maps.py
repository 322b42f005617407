"""Weight map of the CIFAR ResNets: the layout of akamaster's repository, which LDAM-DRW's shares."""

import keras

from rfd_tf.layers import CosineDense
from zoo.transforms import CONVOLUTION, DENSE
from zoo.weight_map import Rule, WeightMap

_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def torch_map(model: keras.Model) -> WeightMap:
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
