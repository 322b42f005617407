"""`rfd export` as a command, in this process and in others."""

import json
import signal
import subprocess
import sys
import time

import pytest

from rfd_tf import cli
from tests.commands.test_cli import rfd
from tests.export.models import encode, image, small_backbone, write_run
from tests.training.processes import ROOT

# Ends within the export, once everything is written and compared, before anything has its name.
STOPPING = """
import sys, time
from pathlib import Path
from rfd_tf import cli
from rfd_tf.exporting import export_model

def stop(parities):
    Path(sys.argv[1]).touch()
    time.sleep(600)

export_model.check_parity = stop
sys.exit(cli.main(["rfd", "export", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for width in (30, 50, 70):
        (folder / f"{width}.jpg").write_bytes(encode(image(width)))
    (folder / "bad.jpg").write_bytes(encode(image())[:300])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    data = {"source": "flat_folder", "root": str(images), "name": "", "split": "train"}
    return write_run(tmp_path_factory.mktemp("run"), data, small_backbone())


def test_in_a_process_of_its_own(run, images, tmp_path):
    out = tmp_path / "net"
    done = rfd("export", f"--model={run}", f"--out={out}", "--features=conv1", "--formats=saved_model,onnx")
    assert done.returncode == 0, done.stderr
    assert "compared on 3 images" in done.stdout  # the run's own, but the bad one
    assert f"{images}/bad.jpg: damaged or cut short" in done.stderr
    assert done.stdout.rstrip().endswith(f"Exported: {out}")
    assert (out / "saved_model" / "1" / "saved_model.pb").exists()
    forms = json.loads((out / "parity.json").read_text())["versions"]["1"]["forms"]
    assert set(forms["onnx float32"]["outputs"]) >= {"features", "rotation_probabilities", "conv1"}
    assert "conv2" not in forms["onnx float32"]["outputs"]


def test_killed_before_the_end(run, tmp_path):
    """Of SIGKILL a hidden folder stays, of SIGTERM nothing; no file has its final name."""
    processes = {}
    for number in (signal.SIGKILL, signal.SIGTERM):
        folder = tmp_path / number.name
        folder.mkdir()
        arguments = [str(folder / "marker"), f"--model={run}", f"--out={folder / 'net'}", "--formats=keras"]
        processes[number] = subprocess.Popen([sys.executable, "-c", STOPPING, *arguments], cwd=ROOT)
    for number, process in processes.items():
        marker = tmp_path / number.name / "marker"
        while not marker.exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=120) in (-number, 128 + number)
        marker.unlink()
        names = [path.name for path in marker.parent.iterdir()]
        assert len(names) == (number == signal.SIGKILL)
        assert all(name.startswith(".net.") for name in names)


def test_refusals(run, images, tmp_path, capsys):
    def status(*arguments):
        code = cli.main(["rfd", "export", *arguments])
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert not (tmp_path / "net").exists()
        return code, error.strip().splitlines()[-1]

    out = f"--out={tmp_path / 'net'}"
    assert status(out) == (2, "rfd export: --model is needed")
    assert status(f"--model={run}") == (2, "rfd export: --out is needed")
    for arguments, message in [
        ([f"--model={run}", "--features=conv9"], "Unknown feature 'conv9'"),
        ([f"--model={run}", "--formats=tflite"], "`formats`"),
        ([f"--model={run}", "--onnx_precision=int4"], "`onnx_precisions`"),
        ([f"--model={run}", "--input=bgr"], "`input`"),
        ([f"--model={run}", "--images=/nowhere"], "No image or folder of images at /nowhere"),
        ([f"--model={run}", f"--images={images / 'bad.jpg'}"], "bad.jpg: damaged or cut short"),
        (["--model=/nowhere"], "No model at /nowhere"),
        (["--model=zoo:nothing"], "nothing"),
    ]:
        code, error = status(out, *arguments)
        assert code == 1
        assert error.startswith("rfd export: ")
        assert message in error


def test_only_keras_models(run, images, tmp_path, capsys):
    arguments = [
        f"--model={run}",
        f"--out={tmp_path / 'net'}",
        "--formats=saved_model",
        f"--images={images}",
    ]
    assert cli.main(["rfd", "export", *arguments]) == 0
    assert cli.main(["rfd", "export", f"--model={tmp_path / 'net'}", f"--out={tmp_path / 'again'}"]) == 1
    assert "only Keras models can be exported" in capsys.readouterr().err
    assert cli.main(["rfd", "export", *arguments]) == 1
    assert "holds version 1" in capsys.readouterr().err
