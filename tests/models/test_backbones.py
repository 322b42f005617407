import subprocess
import sys

import keras
import numpy as np
import pytest
import torch

from rfd_tf.models import (
    alexnet,
    create_backbone,
    first_layer_filters,
    resnet_cifar,
    select_features,
    wrap_backbone,
)
from rfd_tf.models.networks import ALEXNET_FEATURES, _option_a_shortcut
from tests import torch_reference
from tests.contract import to_numpy

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def converted():
    """PyTorch's AlexNet with random batch-norm statistics, and ours with the same weights."""
    torch.manual_seed(0)
    theirs = torch_reference.AlexNet()
    torch_reference.randomize_batch_norm(theirs)
    ours = alexnet()
    torch_reference.copy_alexnet(theirs, ours)
    return theirs.eval(), ours


def test_alexnet_equals_torch_at_every_feature(converted):
    theirs, ours = converted
    images = rng.normal(size=(2, 224, 224, 3)).astype("float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2)))
    outputs = ours(images)
    assert list(outputs) == list(ALEXNET_FEATURES) == list(expected)
    for name, value in expected.items():
        value = value.numpy()
        value = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
        assert np.abs(to_numpy(outputs[name]) - value).max() < 1e-4, name


def test_biases_are_drawn_apart_from_kernels():
    backbone = alexnet((63, 63, 3), dense_width=16, use_batch_norm=False)
    for name in ("conv1_conv", "conv2_conv", "fc6"):
        layer = backbone.get_layer(name)
        kernel, bias = to_numpy(layer.kernel), to_numpy(layer.bias)
        assert np.abs(bias - kernel.ravel()[: len(bias)]).max() > 1e-4, name


def test_first_layer_filters_fold_batch_norm(converted):
    theirs, ours = converted
    conv, norm = theirs._feature_blocks[0][:2]
    scale = norm.weight / torch.sqrt(norm.running_var + 1e-5)
    expected = (conv.weight * scale[:, None, None, None]).detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(first_layer_filters(ours), expected, atol=1e-6)


def test_first_layer_filters_without_batch_norm():
    backbone = alexnet((63, 63, 3), ["pool5"], use_batch_norm=False)
    kernel = to_numpy(backbone.get_layer("conv1_conv").kernel)
    np.testing.assert_array_equal(first_layer_filters(backbone), kernel)


def test_alexnet_shapes():
    shapes = {name: tuple(output.shape[1:]) for name, output in alexnet().output.items()}
    assert shapes == {
        "conv1": (55, 55, 64),
        "pool1": (27, 27, 64),
        "conv2": (27, 27, 192),
        "pool2": (13, 13, 192),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 256),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
        "fc_block": (4096,),
    }


@pytest.mark.parametrize("size", [63, 64, 96])
def test_alexnet_at_other_sizes_equals_torch(size):
    spatial = alexnet((size, size, 3), ["pool5"]).output["pool5"].shape[1]
    theirs = torch_reference.AlexNet(width=32, spatial=spatial)
    torch_reference.randomize_batch_norm(theirs)
    ours = alexnet((size, size, 3), ["fc_block"], dense_width=32)
    torch_reference.copy_alexnet(theirs, ours, spatial)
    images = rng.normal(size=(2, size, size, 3)).astype("float32")
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(images.transpose(0, 3, 1, 2)))["fc_block"]
    np.testing.assert_allclose(to_numpy(ours(images)["fc_block"]), expected.numpy(), atol=1e-4)


def test_alexnet_of_any_size_without_the_dense_block():
    backbone = alexnet((None, None, 3), ["conv5", "conv1"])
    assert list(backbone.output) == ["conv5", "conv1"]
    assert backbone(np.zeros((1, 100, 130, 3), "float32"))["conv5"].shape == (1, 5, 7, 256)


def test_initial_weights_are_torchs():
    backbone = alexnet((63, 63, 3), dense_width=64)
    for layer in ("conv2_conv", "fc7"):
        kernel = to_numpy(backbone.get_layer(layer).kernel)
        bound = 1 / np.sqrt(np.prod(kernel.shape[:-1]))
        assert np.abs(kernel).max() <= bound
        assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_names": ["conv9"]}, "Unknown feature 'conv9'; available: conv1, pool1"),
        ({"feature_names": ["conv1", "conv1"]}, "'conv1' is asked for more than once"),
        ({"feature_names": []}, "empty"),
        ({"feature_names": "conv1"}, "the string"),
        ({"input_shape": (62, 224, 3)}, "pool5 empty"),
        ({"input_shape": (None, None, 3)}, "fixed"),
    ],
)
def test_alexnet_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        alexnet(**arguments)


def test_resnet_has_the_published_size_and_shapes():
    parameters = {20: 270_000, 32: 460_000, 44: 660_000, 56: 850_000, 110: 1_700_000}
    for depth, expected in parameters.items():
        backbone = resnet_cifar(depth)
        trainable = sum(int(np.prod(v.shape)) for v in backbone.trainable_variables)
        assert trainable == pytest.approx(expected, rel=0.03), depth
    assert resnet_cifar(20, feature_names=["fc_block"]).output["fc_block"].shape == (None, 256)
    shapes = {name: tuple(output.shape[1:]) for name, output in backbone.output.items()}
    assert shapes == {
        "conv1": (32, 32, 16),
        "block1": (32, 32, 16),
        "block2": (16, 16, 32),
        "block3": (8, 8, 64),
        "pool": (64,),
    }


def test_option_a_shortcut_equals_torch():
    images = rng.normal(size=(2, 7, 9, 4)).astype("float32")
    inputs = keras.Input((7, 9, 4))
    shortcut = keras.Model(inputs, _option_a_shortcut(inputs, 8, 2, "shortcut"))
    subsampled = torch.tensor(images.transpose(0, 3, 1, 2))[:, :, ::2, ::2]
    expected = torch.nn.functional.pad(subsampled, (0, 0, 0, 0, 2, 2)).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(to_numpy(shortcut(images)), expected)


def test_saved_backbones_load_without_this_package(tmp_path):
    for backbone in (resnet_cifar(20), alexnet((63, 63, 3), dense_width=8)):
        path = tmp_path / f"{backbone.name}.keras"
        backbone.save(path)
        code = (
            f"import sys, keras; keras.saving.load_model({str(path)!r}); assert 'rfd_tf' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_resnet_bad_arguments():
    with pytest.raises(ValueError, match="depth=18"):
        resnet_cifar(18)
    with pytest.raises(ValueError, match="width=7"):
        resnet_cifar(20, width=7)


@pytest.mark.parametrize("name", ["alexnet", "resnet20", "keras.applications.MobileNetV2"])
def test_backbones_by_name_survive_disk(name, tmp_path):
    backbone = create_backbone(name, (64, 64, 3))
    images = rng.normal(size=(2, 64, 64, 3)).astype("float32")
    backbone.save(tmp_path / "backbone.keras")
    again = keras.saving.load_model(tmp_path / "backbone.keras")
    expected, outputs = backbone(images), again(images)
    assert list(outputs) == list(expected)
    for feature in expected:
        np.testing.assert_allclose(to_numpy(outputs[feature]), to_numpy(expected[feature]), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg", {}, "Unknown backbone 'vgg'"),
        ("keras.applications.VGG99", {}, "no model 'VGG99'"),
        ("keras.applications.MobileNetV2", {"width": 3}, "width=3 with keras.app"),
        ("alexnet", {"width": 3}, "width=3 with alexnet"),
        (
            "keras.applications.MobileNetV2",
            {"feature_names": ["conv1"]},
            "Unknown feature 'conv1'; available: stage2",
        ),
    ],
)
def test_unknown_backbones(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(name, (64, 64, 3), **options)


def test_any_functional_model_can_be_wrapped_and_selected_from():
    model = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(64, 64, 3))
    backbone = wrap_backbone(model, {"stem": "Conv1_relu", "top": "out_relu"})
    images = rng.normal(size=(1, 64, 64, 3)).astype("float32")
    outputs = backbone(images)
    np.testing.assert_allclose(to_numpy(outputs["top"]), to_numpy(model(images)), atol=1e-5)
    selected = select_features(backbone, ["top", "stem"])
    assert list(selected.output) == ["top", "stem"]
    assert first_layer_filters(backbone).shape == (3, 3, 3, 32)
    with pytest.raises(ValueError, match="no layer 'nope'"):
        wrap_backbone(model, {"top": "nope"})
    with pytest.raises(ValueError, match="Unknown feature 'nope'"):
        select_features(backbone, ["nope"])

    class Subclassed(keras.Model):
        pass

    with pytest.raises(ValueError, match="functional"):
        wrap_backbone(Subclassed(), {"top": "nope"})


def test_synchronized_batch_norm_is_asked_for():
    backbone = alexnet((63, 63, 3), synchronized=True, dense_width=8)
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 7
    assert all(norm.synchronized for norm in norms)


def test_batch_norm_scales_as_pytorch_1_0_drew_them():
    keras.utils.set_random_seed(0)
    model = create_backbone("resnet20", (16, 16, 3), norm_scale_init="uniform")
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    scales = np.concatenate([np.asarray(layer.gamma) for layer in norms])
    assert scales.min() >= 0
    assert scales.max() < 1
    assert scales.mean() == pytest.approx(0.5, abs=0.05)
    assert scales.var() == pytest.approx(1 / 12, rel=0.2)
    assert len({np.asarray(layer.gamma).tobytes() for layer in norms}) == len(norms)
    ones = create_backbone("alexnet", (64, 64, 3), dense_width=8)
    assert (np.asarray(ones.get_layer("conv1_bn").gamma) == 1).all()
    with pytest.raises(ValueError, match=r"norm_scale_init.*'zeros'"):
        create_backbone("alexnet", (64, 64, 3), norm_scale_init="zeros")
