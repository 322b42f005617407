import logging

import keras
import numpy as np
import pytest

import zoo
from rfd_tf.models import RotationDecoupling, alexnet, resnet_cifar
from tests.zoo.released import NARROW, alexnet_state, register_narrow, resnet_state, save_torch
from zoo import registry


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_torch(folder / "a.pth.tar", alexnet_state())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_entries", {})
        register_narrow()
        zoo.convert("narrow", folder / "a.pth.tar", folder / "a.keras")
        zoo.convert("narrow", folder / "a.keras", folder / "a.caffemodel")
        zoo.convert("narrow", folder / "a.keras", folder / "a.pth")
    return folder


@pytest.fixture
def files(converted):
    """The same weights as a zoo entry and as files of every kind."""
    register_narrow(links=((converted / "a.pth.tar").as_uri(),))
    return converted


@pytest.mark.parametrize("spec", ["zoo:narrow", "a.pth.tar", "a.pth", "a.keras", "a.caffemodel"])
def test_every_source_gives_the_same_weights(files, spec):
    backbone = alexnet(dense_width=NARROW)
    zoo.resolve_init(spec if spec.startswith("zoo:") else files / spec, backbone)
    expected = zoo.load("narrow").get_weights()
    for actual, wanted in zip(backbone.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("compound", [False, True], ids=["backbone", "trained model"])
def test_our_own_runs(tmp_path, compound):
    backbone = resnet_cifar(20, name="other")
    model = RotationDecoupling(backbone, 5) if compound else backbone
    model.save(tmp_path / "b.keras")
    target = resnet_cifar(20)
    zoo.resolve_init(str(tmp_path / "b.keras"), target)
    np.testing.assert_array_equal(target.get_weights()[0], backbone.get_weights()[0])


@pytest.mark.parametrize(
    ("spec", "target", "message"),
    [
        ("zoo:nobody", lambda: alexnet(dense_width=NARROW), "no entry 'nobody'"),
        (
            "zoo:narrow",
            lambda: alexnet(dense_width=8),
            r"'fc6/kernel' has shape \(9216, 32\), the network needs",
        ),
        ("a.pth.tar", lambda: alexnet(dense_width=8), r"a\.pth\.tar: .*has shape \(32, 9216\)"),
        ("a.keras", lambda: resnet_cifar(20), "does not fit the network 'resnet20': it lacks"),
        ("a.pth", lambda: resnet_cifar(20), r"a\.pth: The file lacks"),
        ("a.caffemodel", lambda: resnet_cifar(20), "resnet20 has no caffe form"),
        ("a.caffemodel", lambda: alexnet(dense_width=NARROW, use_batch_norm=False), "'conv1_bn' changes"),
        ("missing.keras", lambda: resnet_cifar(20), "there is no such file"),
        ("a.txt", lambda: resnet_cifar(20), "unknown ending"),
        ("a.pth", lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), "no AlexNet and no"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(files, spec, target, message):
    backbone = target()
    before = backbone.get_weights()
    with pytest.raises(zoo.ZooError, match=message):
        zoo.resolve_init(spec if spec.startswith("zoo:") else files / spec, backbone)
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_resnet_file(tmp_path):
    state = resnet_state()
    save_torch(tmp_path / "a.th", state, nest="state_dict")
    backbone = resnet_cifar(20)
    zoo.resolve_init(tmp_path / "a.th", backbone)
    kernel = backbone.get_layer("conv1_conv").get_weights()[0]
    np.testing.assert_array_equal(kernel, state["conv1.weight"].transpose(2, 3, 1, 0))


FEATURES = ("block3", "pool", "fc_block")
BLOCK = ("fc6", "fc6_bn", "fc7", "fc7_bn")


@pytest.fixture
def resnet_files(tmp_path):
    """A released ResNet as a zoo entry and as files."""
    save_torch(tmp_path / "a.th", resnet_state(), nest="state_dict")
    register_narrow(architecture="resnet20", links=((tmp_path / "a.th").as_uri(),))
    zoo.convert("narrow", tmp_path / "a.th", tmp_path / "a.keras")
    return tmp_path


@pytest.mark.parametrize("spec", ["zoo:narrow", "a.th", "a.keras"])
def test_a_dense_block_stays_as_initialised(resnet_files, caplog, spec):
    backbone = resnet_cifar(20, feature_names=FEATURES, dense_width=8)
    before = {variable.path: variable.numpy() for variable in backbone.weights}
    name = spec if spec.startswith("zoo:") else str(resnet_files / spec)
    with caplog.at_level(logging.INFO, "absl"):
        zoo.resolve_init(name, backbone)
    expected = {variable.path: variable.numpy() for variable in zoo.load("narrow").weights}
    fresh = {path: value for path, value in before.items() if path.partition("/")[0] in BLOCK}
    assert len(fresh) == 10
    for variable in backbone.weights:
        np.testing.assert_array_equal(variable.numpy(), (expected | fresh)[variable.path])
    (message,) = [record.getMessage() for record in caplog.records if "initialised" in record.getMessage()]
    assert message == f"{name} lacks these variables, which stay as initialised: {', '.join(sorted(fresh))}"


def test_a_dense_block_in_the_file_is_set(tmp_path, caplog):
    source, target = (resnet_cifar(20, feature_names=FEATURES, dense_width=8) for _ in range(2))
    source.save(tmp_path / "b.keras")
    with caplog.at_level(logging.INFO, "absl"):
        zoo.resolve_init(tmp_path / "b.keras", target)
    for actual, wanted in zip(target.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert "initialised" not in caplog.text


def test_all_else_stays_strict(resnet_files):
    """Half a block, a block that has no place, another depth, another width."""
    block = resnet_cifar(20, feature_names=FEATURES, dense_width=8)
    half = keras.Model(block.inputs[0], block.get_layer("fc6_relu").output)
    half.save(resnet_files / "half.keras")
    block.save(resnet_files / "block.keras")
    cases = [
        ("half.keras", block, "it lacks .*fc7"),
        ("block.keras", resnet_cifar(20), "it has besides .*fc6"),
        ("a.keras", resnet_cifar(32, feature_names=FEATURES), "it lacks .*block1_unit3"),
        ("a.th", resnet_cifar(32, feature_names=FEATURES), "The file lacks"),
        ("a.keras", resnet_cifar(20, feature_names=FEATURES, width=8), "has shape"),
        ("a.th", resnet_cifar(20, feature_names=FEATURES, width=8), "has shape"),
    ]
    for file, backbone, message in cases:
        before = backbone.get_weights()
        with pytest.raises(zoo.WeightError, match=message):
            zoo.resolve_init(resnet_files / file, backbone)
        for old, new in zip(before, backbone.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
