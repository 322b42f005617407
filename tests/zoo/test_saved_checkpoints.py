"""Checkpoints as people save them: the weights are read, what is beside them is named and left unread."""

import argparse
import collections
import datetime
import enum
import json
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import torch

import zoo
from rfd_tf.cli.zoo import main
from tests.zoo.released import resnet_state, save_torch
from zoo.torch_checkpoint import read_state_dict, read_weights

FORMATS = pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "zip"])


class Command:
    def __reduce__(self):
        return os.system, ("touch pwned",)


class Colour(enum.Enum):
    RED = 1


@pytest.fixture
def uninstalled(monkeypatch):
    """A class that can be written, and not imported when it is read: as a list of omegaconf's would be."""
    module = types.ModuleType("omegaconf.listconfig")

    class ListConfig(list):
        pass

    ListConfig.__module__, ListConfig.__qualname__ = module.__name__, "ListConfig"
    module.ListConfig = ListConfig
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patch.setitem(sys.modules, module.__name__, module)
        made = ListConfig([1, 2])
        made.owner = made  # a cycle, as parents and children of configs have
        yield made


def extras(uninstalled) -> dict:
    return {
        "args": argparse.Namespace(lr=0.1, path=pathlib.Path("x"), nested=argparse.Namespace(a=[1])),
        "best_acc": np.float64(91.5),
        "date": datetime.datetime(2024, 5, 17, 12),
        "config": {"sizes": uninstalled, "name": "plain"},
        "history": [np.float32(value) for value in range(100)],
        "array": np.arange(6.0).reshape(2, 3),
        "rng": np.random.default_rng(0).bit_generator.state,
        "meters": collections.defaultdict(list, {"loss": [torch.ones(3)]}),
        "kinds": ({1, 2}, frozenset([3]), 1j, Colour.RED, bytearray(b"x")),
        "by pair": {(1, 2): "a", Colour.RED: "b"},
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "unsigned": torch.arange(3).to(torch.uint16),
        "complex": torch.ones(3, dtype=torch.complex64),
        "model object": torch.nn.Linear(2, 2),
    }


def save(path, state, beside, legacy, **options):
    tensors = {f"module.{key}": torch.from_numpy(np.array(array)) for key, array in state.items()}
    content = {"epoch": 3, **beside, "state_dict": tensors, "lr": 0.1}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy, **options)


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_is_beside_the_weights_is_left_unread(tmp_path, uninstalled, legacy, protocol):
    state = resnet_state()
    save(tmp_path / "x.pth", state, extras(uninstalled), legacy, pickle_protocol=protocol)
    weights = read_weights(tmp_path / "x.pth")
    assert list(weights.state) == list(state)
    for key, array in state.items():
        np.testing.assert_array_equal(weights.state[key], array, strict=True)
    unread = set(weights.unread)
    assert {
        "args: argparse.Namespace",
        "date: datetime.datetime",
        "config.sizes: omegaconf.listconfig.ListConfig",
        "meters: collections.defaultdict",
        "device: torch.device",
        "dtype: torch.float16",
        "unsigned: torch._utils._rebuild_tensor_v3",
        "model object: torch.nn.modules.linear.Linear",
    } <= unread
    assert {text.rpartition(".")[2] for text in unread if text.startswith("best_acc")} == {"scalar"}
    assert sum(text.startswith("history") for text in unread) == 1
    assert not [text for text in unread if "epoch" in text or "config.name" in text or "complex:" in text]


@FORMATS
def test_the_command_converts_it_and_says_what_was_left(tmp_path, uninstalled, legacy, capsys):
    save(tmp_path / "x.pth", resnet_state(), extras(uninstalled), legacy)
    out = tmp_path / "x.keras"
    arguments = ["convert", "cifar_resnet20", f"--from_file={tmp_path / 'x.pth'}", f"--out={out}"]
    assert main(["rfd zoo", *arguments]) == 0
    assert "not read: args: argparse.Namespace, best_acc: " in capsys.readouterr().out
    report = json.loads((tmp_path / "x.keras.json").read_text())
    assert report["unread"][0] == "args: argparse.Namespace"
    assert report["unread"][2] == "date: datetime.datetime"


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_call_beside_the_weights_is_never_made(tmp_path, monkeypatch, legacy, protocol):
    monkeypatch.chdir(tmp_path)
    beside = {"args": Command(), "list": [Command()]}
    save(tmp_path / "x.pth", resnet_state(), beside, legacy, pickle_protocol=protocol)
    report = zoo.convert("cifar_resnet20", "x.pth", tmp_path / "x.keras")
    assert set(report.unread) == {f"args: {os.name}.system", f"list[]: {os.name}.system"}
    assert {path.name for path in tmp_path.iterdir()} == {"x.pth", "x.keras", "x.keras.json"}
    torch.load("x.pth", weights_only=False)  # what reading by pickle would have done
    assert (tmp_path / "pwned").exists()


@FORMATS
def test_what_the_weights_need_is_refused_by_name(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    for value, name in ((Command(), f"{os.name}.system"), (np.float64(1), r"numpy\..*\.scalar")):
        content = {"state_dict": {"conv1.weight": value}}
        torch.save(content, "x.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(zoo.FormatError, match=rf"^x\.pth: 'conv1.weight' is a {name}, where a state"):
            read_state_dict("x.pth")
    torch.save(torch.nn.Linear(2, 2), "x.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(zoo.FormatError, match=r"holds no state dict.*not read.*: torch\.nn.*\.Linear"):
        read_state_dict("x.pth")
    assert {path.name for path in tmp_path.iterdir()} == {"x.pth"}


@pytest.mark.parametrize("key", ["network", "state_dict", "model_state_dict", "model", "net"])
def test_the_names_that_weights_are_saved_under(tmp_path, key):
    save_torch(tmp_path / "x.pth", {"a": np.ones(3, "float32")}, nest=key)
    np.testing.assert_array_equal(read_state_dict(tmp_path / "x.pth")["a"], np.ones(3, "float32"))


def test_names_and_places_are_cut_and_printable(tmp_path):
    beside = {"\x1b[2J" + "x" * 100: Command(), **{f"key {i}": Command() for i in range(200)}}
    save(tmp_path / "x.pth", {"a": np.ones(3, "float32")}, beside, True)
    unread = read_weights(tmp_path / "x.pth").unread
    assert len(unread) == 51
    assert unread[-1] == "and more"
    assert all(text.isprintable() and len(text) < 300 for text in unread)
