"""`rfd zoo`, called as the dispatcher calls it, and once as a process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from rfd_tf.cli.zoo import main
from tests.zoo.released import NARROW, alexnet_state, register_narrow, save_torch
from zoo.sources import read_keras

ROOT = Path(__file__).parents[2]


def run(*arguments) -> int:
    return main(["rfd zoo", *map(str, arguments)])


@pytest.fixture
def narrow(tmp_path):
    save_torch(tmp_path / "a.pth.tar", alexnet_state())
    register_narrow(links=((tmp_path / "a.pth.tar").as_uri(),))
    return tmp_path


def test_as_a_process():
    command = [sys.executable, "-m", "rfd_tf.cli.zoo", "list"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0
    assert [line.split()[0] for line in out.stdout.splitlines()] == zoo.list()
    assert out.stderr == ""


def test_list_loads_no_framework():
    code = (
        "import sys; from rfd_tf.cli.zoo import main; main(['rfd zoo', 'list']);"
        "print([m for m in ('keras', 'tensorflow', 'torch', 'requests') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_info(capsys):
    assert run("info", "rfd_alexnet_voc") == 0
    assert capsys.readouterr().out == zoo.model_card("rfd_alexnet_voc")


def test_download(narrow, capsys):
    assert run("download", "narrow") == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.read_bytes() == (narrow / "a.pth.tar").read_bytes()


def test_convert_verify_fold_and_rescale(narrow, capsys):
    rng = np.random.default_rng(0)
    (narrow / "photos" / "cats").mkdir(parents=True)
    for index in range(5):
        pixels = rng.integers(0, 255, (50, 40, 3), "uint8")
        Image.fromarray(pixels).save(narrow / "photos" / "cats" / f"{index}.png")
    assert run("convert", "narrow", f"--out={narrow / 'a.keras'}") == 0, "downloaded"
    assert "Written" in capsys.readouterr().out
    source = f"--from_file={narrow / 'a.pth.tar'}"
    assert run("verify", "narrow", source, f"--model={narrow / 'a.keras'}") == 0
    assert "fc_block" in capsys.readouterr().out
    assert run("fold", f"--from_file={narrow / 'a.keras'}", f"--out={narrow / 'b.keras'}") == 0
    images = f"--images={narrow / 'photos'}"
    source = f"--from_file={narrow / 'b.keras'}"
    assert run("rescale", source, images, "--num_images=4", f"--out={narrow / 'c.caffemodel'}") == 0
    report = json.loads((narrow / "c.caffemodel.json").read_text())
    assert report["source_file"] == "b.keras"
    np.save(narrow / "images.npy", rng.integers(0, 255, (3, 224, 224, 3), "uint8"))
    assert run("rescale", source, f"--images={narrow / 'images.npy'}", f"--out={narrow / 'd.keras'}") == 0
    assert read_keras(narrow / "d.keras").output["fc_block"].shape == (None, NARROW)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "an action is needed"),
        (["fly"], 2, "unknown action 'fly'"),
        (["info"], 2, "info needs the NAME of an entry"),
        (["list", "narrow"], 2, "list takes no name"),
        (["info", "nobody"], 1, "no entry 'nobody'"),
        (["convert", "narrow"], 2, "convert needs --out"),
        (["fold", "--out=x.keras"], 2, "fold needs --from_file"),
        (["rescale", "--from_file=x.keras", "--out=y.keras"], 2, "rescale needs --images"),
        (["verify", "narrow"], 2, "verify needs --model"),
        (["list", "--nonsense"], 2, "nonsense"),
        (["convert", "narrow", "more", "--out=x.keras"], 2, "unexpected argument 'more'"),
        (["convert", "narrow", "--from_file=missing.pth", "--out=x.keras"], 1, "there is no such file"),
        (["convert", "narrow", "--out=x.onnx"], 2, "--out=x.onnx: unknown ending"),
        (["convert", "narrow", "--out=x.caffemodel.h5"], 2, "this ending is read, but not written"),
        (["fold", "--from_file=a.keras", "--out=x.caffemodel.h5"], 2, "the endings to write are .keras, "),
        (["download", "cifar_resnet20"], 1, "has no link"),
        (["fold", "--from_file=a.pth", "--out=x.keras"], 1, "there is no such file"),
    ],
)
def test_mistakes_give_one_message_and_no_traceback(narrow, capsys, monkeypatch, arguments, code, message):
    monkeypatch.chdir(narrow)
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("rfd zoo: ")
    assert "Traceback" not in error
    assert {path.name for path in narrow.iterdir()} <= {"a.pth.tar", "cache"}


def test_help(capsys):
    assert run("--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "rescale" in out
    assert "absolute up to values of 1, relative to the feature's largest value beyond" in out


@pytest.mark.parametrize("content", [None, b"not an image"])
def test_images_that_are_not_there(narrow, capsys, content):
    run("convert", "narrow", "--fold", f"--out={narrow / 'b.keras'}")
    (narrow / "photos").mkdir()
    if content:
        (narrow / "photos" / "a.png").write_bytes(content)
    images = f"--images={narrow / 'photos'}"
    assert run("rescale", f"--from_file={narrow / 'b.keras'}", images, f"--out={narrow / 'c.keras'}") == 1
    assert ("cannot be read as an image" if content else "has no images") in capsys.readouterr().err
    assert not (narrow / "c.keras").exists()
