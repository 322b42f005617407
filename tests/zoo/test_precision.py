"""A mixed-precision run uses the zoo as any other does."""

import keras
import numpy as np
import pytest

import zoo
from rfd_tf.models import alexnet, resnet_cifar
from rfd_tf.precision import computing_in_float32, float32_policy
from tests.zoo.released import NARROW, alexnet_state, register_narrow, resnet_state, save_torch
from zoo.architectures import architecture
from zoo.conversion import verify_file
from zoo.torch_checkpoint import read_state_dict


@pytest.fixture(params=["mixed_bfloat16", "mixed_float16"])
def mixed(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def policies(model) -> set[str]:
    return {layer.dtype_policy.name for layer in model.layers}


def test_load_convert_and_verify(mixed, tmp_path):
    state = alexnet_state(heads=True)
    save_torch(tmp_path / "a.pth.tar", state)
    entry = register_narrow()
    model = zoo.load("narrow", from_file=tmp_path / "a.pth.tar", heads=True)
    assert policies(model) == {"float32"}
    zoo.convert("narrow", tmp_path / "a.pth.tar", tmp_path / "a.keras")
    verify_file(entry, tmp_path / "a.pth.tar", tmp_path / "a.keras")
    zoo.convert("narrow", tmp_path / "a.keras", tmp_path / "b.caffemodel", fold=True)
    assert keras.config.dtype_policy().name == mixed


@pytest.mark.parametrize("spec", ["zoo:narrow", "a.th", "a.keras"])
def test_a_mixed_backbone_starts_from_every_source(mixed, tmp_path, spec):
    state = resnet_state()
    save_torch(tmp_path / "a.th", state)
    register_narrow(architecture="resnet20", links=((tmp_path / "a.th").as_uri(),))
    zoo.convert("narrow", tmp_path / "a.th", tmp_path / "a.keras")
    backbone = resnet_cifar(20)
    zoo.resolve_init(spec if spec.startswith("zoo:") else tmp_path / spec, backbone)
    (kernel,) = backbone.get_layer("conv1_conv").get_weights()
    np.testing.assert_array_equal(kernel, state["conv1.weight"].transpose(2, 3, 1, 0), strict=True)
    assert policies(backbone) >= {mixed}, "it goes on in its own precision"


def test_what_a_mixed_run_trained_is_exported_and_folded(mixed, tmp_path):
    backbone = resnet_cifar(20)
    zoo.export_weights(backbone, tmp_path / "a.pth")
    zoo.export_weights(zoo.fold_batch_norm(backbone), tmp_path / "folded.keras")
    backbone.save(tmp_path / "a.keras")
    zoo.convert("cifar_resnet20", tmp_path / "a.keras", tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        kernel = read_state_dict(tmp_path / name)["conv1.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(kernel, backbone.get_layer("conv1_conv").get_weights()[0])
    assert mixed in policies(backbone)


def test_rescaling_does_not_depend_on_the_precision(mixed):
    images = np.random.default_rng(0).standard_normal((4, 224, 224, 3)).astype("float32")
    options = {"dense_width": NARROW, "use_batch_norm": False}
    backbone = alexnet(**options)
    with float32_policy():
        same = alexnet(**options)
    same.set_weights(backbone.get_weights())
    rescaled = [zoo.rescale(network, images).get_weights() for network in (backbone, same)]
    for actual, expected in zip(*rescaled, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_an_error_leaves_every_policy_as_it_was(mixed):
    with pytest.raises(TypeError):
        architecture("resnet20").model({"nonsense": 1}, heads=False)
    assert keras.config.dtype_policy().name == mixed
    backbone = resnet_cifar(20)
    before = [layer.dtype_policy for layer in backbone.layers]
    with pytest.raises(AssertionError, match="within"), computing_in_float32(backbone):
        raise AssertionError("within" if policies(backbone) == {"float32"} else "other policies")
    assert [layer.dtype_policy for layer in backbone.layers] == before
