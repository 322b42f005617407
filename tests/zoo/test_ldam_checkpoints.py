"""CIFAR ResNets of the LDAM-DRW repository: the usual layout with a cosine classifier, [64, C], no bias."""

import numpy as np
import pytest
import torch

import zoo
from rfd_tf.cli.zoo import main
from rfd_tf.layers import CosineDense
from tests.zoo.pickles import legacy, mapping, tensor
from tests.zoo.released import resnet_state, save_torch
from tests.zoo.test_conversion import assert_states_equal
from zoo.conversion import load_file
from zoo.sources import read_keras
from zoo.torch_checkpoint import read_state_dict

IMAGES = np.random.default_rng(5).standard_normal((3, 32, 32, 3)).astype("float32")


@pytest.fixture
def checkpoint(tmp_path):
    """As its train script saves one: DataParallel, with the optimizer's state beside the weights."""
    state = resnet_state(depth=32, cosine=True)
    beside = {"arch": "resnet32", "best_acc1": torch.tensor(77.0), "optimizer": {"state": {0: torch.ones(3)}}}
    save_torch(tmp_path / "ckpt.pth.tar", state, nest="state_dict", legacy=False, beside=beside)
    return tmp_path / "ckpt.pth.tar", state


def test_as_a_backbone(checkpoint):
    path, state = checkpoint
    model, report = load_file(zoo.info("cifar_resnet32"), path)
    assert "logits" not in model.output
    assert report.left_out == ("linear.weight",)
    kernel = model.get_layer("block3_unit4_2_conv").get_weights()[0]
    np.testing.assert_array_equal(kernel, state["layer3.4.conv2.weight"].transpose(2, 3, 1, 0))


def test_the_head_is_a_cosine_classifier(checkpoint):
    path, state = checkpoint
    model = zoo.load("cifar_resnet32", from_file=path, heads=True)
    assert isinstance(model.get_layer("classifier"), CosineDense)
    outputs = model(IMAGES, training=False)
    # As the repository's NormedLinear computes it.
    pool, weight = torch.from_numpy(np.asarray(outputs["pool"])), torch.from_numpy(state["linear.weight"])
    normalize = torch.nn.functional.normalize
    expected = normalize(pool, dim=1).mm(normalize(weight, dim=0))
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-6)


def test_there_and_back_by_the_command(checkpoint, tmp_path, capsys):
    path, state = checkpoint
    for heads in (["--heads"], []):
        arguments = ["convert", "cifar_resnet32", f"--from_file={path}", f"--out={tmp_path / 'a.keras'}"]
        assert main(["rfd zoo", *arguments, *heads]) == 0
        assert ("logits" in capsys.readouterr().out) == bool(heads)
        zoo.convert("cifar_resnet32", tmp_path / "a.keras", tmp_path / "b.pth")
        wanted = {key: array for key, array in state.items() if heads or key != "linear.weight"}
        assert_states_equal(read_state_dict(tmp_path / "b.pth"), wanted)
    folded = zoo.convert("cifar_resnet32", path, tmp_path / "c.keras", heads=True, fold=True)
    assert folded.heads == ("logits",)
    assert read_keras(tmp_path / "c.keras").output["logits"].shape == (None, 10)


@pytest.mark.parametrize("cosine", [True, False])
def test_as_many_classes_as_the_file_has(tmp_path, cosine):
    save_torch(tmp_path / "x.pth", resnet_state(classes=100, cosine=cosine))
    model = zoo.load("cifar_resnet20", from_file=tmp_path / "x.pth", heads=True)
    assert model.output["logits"].shape == (None, 100)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((7, 7), "needs"), ((64,), "has shape"), ((64, 1), "has shape"), ((0, 64), "has sh")],
)
def test_classifiers_of_other_shapes(tmp_path, shape, message):
    """Refused where they are wanted, else left out."""
    state = resnet_state()
    for bias in (True, False):
        state["linear.weight"] = np.ones(shape, "float32")
        if not bias:
            del state["linear.bias"]
        save_torch(tmp_path / "x.pth", state)
        zoo.load("cifar_resnet20", from_file=tmp_path / "x.pth")
        with pytest.raises(zoo.WeightError, match=rf"x\.pth: 'linear.weight' .*{message}"):
            zoo.load("cifar_resnet20", from_file=tmp_path / "x.pth", heads=True)


@pytest.mark.parametrize("shape", [[2**40, 0], [2**40, 64], [0, 2**40]])
def test_a_classifier_that_announces_what_it_has_not(tmp_path, shape):
    content = legacy(mapping({"linear.weight": tensor(shape, stored=0)}), [("0", np.ones(0, "float32"))])
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(zoo.ZooError, match=r"x\.pth: .*(lacks|does not fit)"):
        zoo.load("cifar_resnet20", from_file=tmp_path / "x.pth", heads=True)
