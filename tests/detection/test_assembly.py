"""Detectors that begin as AlexNet: with batch norm, with it folded in, and in its Caffe form."""

import keras
import numpy as np
import pytest
import torch

from rfd_tf.configs.detect import voc2007
from rfd_tf.detection.voc_detection import build_detector, build_optimizer
from rfd_tf.models import alexnet
from tests.contract import to_numpy

WIDTH, CLASSES = 24, 3
CONVOLUTIONS = (  # name, stride, padding
    ("conv1", 4, 2),
    ("conv2", 1, 2),
    *((f"conv{n}", 1, 1) for n in (3, 4, 5)),
)


def config_of(**detector):
    config = voc2007.get_config()
    config.detector.update({"dense_width": WIDTH, **detector})
    return config


@pytest.fixture(scope="module")
def backbone():
    """With statistics that are not those of a new network."""
    keras.utils.set_random_seed(0)
    network = alexnet(dense_width=WIDTH)
    rng = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shapes = [weight.shape for weight in layer.weights]
            layer.set_weights([rng.uniform(0.5, 1.5, shape).astype("float32") for shape in shapes])
    return network


@pytest.fixture(scope="module")
def forms(backbone):
    keras.utils.set_random_seed(1)
    return {
        "batch norm": (backbone, False),
        "folded": (backbone, True),
        "Caffe": (alexnet(dense_width=WIDTH, use_batch_norm=False), True),
    }


@pytest.mark.parametrize("form", ["batch norm", "folded", "Caffe"])
def test_trunk_and_dense_layers_are_the_networks(forms, form):
    network, fold = forms[form]
    model = build_detector(config_of(fold_batch_norm=fold), network, CLASSES)
    image = np.random.default_rng(1).normal(size=(1, 224, 224, 3)).astype("float32")
    expected = {name: to_numpy(value) for name, value in network(image, training=False).items()}
    maps = to_numpy(model.trunk(image))
    np.testing.assert_allclose(maps, expected["conv5"], atol=1e-4 * np.abs(expected["conv5"]).max())
    assert model.trunk(np.zeros((1, 100, 150, 3), "float32")).shape == (1, 6, 9, 256)
    fc7 = keras.Model(model.head.inputs[0], model.head.get_layer("fc7").output)
    found = to_numpy(fc7(expected["pool5"]))
    np.testing.assert_allclose(found, expected["fc_block"], atol=1e-4 * np.abs(expected["fc_block"]).max())
    norms = [layer for layer in model.trunk.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == (5 if form == "batch norm" else 0)
    learning = {id(variable) for variable in model.trainable_variables}
    assert not any(id(variable) in learning for norm in norms for variable in norm.variables)
    assert all(layer.trainable for layer in network.layers)  # what was handed in is not changed


@pytest.mark.parametrize(("ceil_pools", "cells"), [(True, 37), (False, 36)])
def test_pools_round_as_caffes(forms, ceil_pools, cells):
    """At a side of 600, which is what images are tested at, Caffe's conv5 has one cell more."""
    network, _ = forms["Caffe"]
    model = build_detector(config_of(ceil_pools=ceil_pools), network, CLASSES)
    image = np.random.default_rng(2).normal(size=(1, 600, 63, 3)).astype("float32")
    maps = to_numpy(model.trunk(image))
    assert maps.shape[1] == cells
    # PyTorch's `ceil_mode` is Caffe's rounding.
    x = torch.tensor(image).permute(0, 3, 1, 2)
    for name, stride, padding in CONVOLUTIONS:
        kernel, bias = map(torch.tensor, network.get_layer(f"{name}_conv").get_weights())
        x = torch.relu(torch.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride, padding))
        if name in ("conv1", "conv2"):
            x = torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=ceil_pools)
    expected = x.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(maps, expected, atol=1e-4 * np.abs(expected).max())


def test_configs_of_before_build_what_they_built(forms):
    network, _ = forms["Caffe"]
    config = config_of()
    for name in ("ceil_pools", "exclusive_deltas"):
        del config.detector[name]
    model = build_detector(config, network, CLASSES)
    assert model.trunk(np.zeros((1, 100, 150, 3), "float32")).shape == (1, 5, 8, 256)
    assert not model.exclusive_deltas


def test_what_learns_and_how(backbone):
    """Caffe's: conv1 is frozen; biases learn twice as fast, without decay."""
    config = config_of()
    model = build_detector(config, backbone, CLASSES)
    learning = {variable.path: variable for variable in model.trainable_variables}
    layers = [f"conv{n}_conv" for n in range(2, 6)] + ["fc6", "fc7", "class_logits", "deltas"]
    assert sorted(path.split("/")[-2] for path in learning) == sorted(layers * 2)
    optimizer = build_optimizer(config, model)
    before = {path: to_numpy(variable).copy() for path, variable in learning.items()}
    optimizer.apply([np.ones(variable.shape, "float32") for variable in learning.values()])
    for path, variable in learning.items():
        gradient = 1.0 if path.endswith("bias") else 1.0 + 5e-4 * before[path]
        rate = 2e-3 if path.endswith("bias") else 1e-3
        np.testing.assert_allclose(to_numpy(variable), before[path] - rate * gradient, rtol=1e-5, atol=1e-7)


def test_new_dense_layers_and_a_trunk_that_learns_whole(backbone):
    config = config_of(pretrained_dense=False, dense_width=8, pool_size=3, frozen="")
    model = build_detector(config, backbone, CLASSES)
    assert model.head.get_layer("fc6").kernel.shape == (3 * 3 * 256, 8)
    assert any(variable.path.endswith("conv1_conv/kernel") for variable in model.trainable_variables)
