"""`rfd extract` in processes of its own: killed, stopped, continued; and what it refuses."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from rfd_tf import cli
from rfd_tf.features import load_features
from tests.data.images import write
from tests.extraction.tiny import opened, run_extract, shards
from tests.training.processes import LIMIT, ROOT, finish

COUNT = 240


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (COUNT, 20, 20, 3), dtype="uint8"))
    return path


def start(run, images, out, *flags):
    command = [sys.executable, "-m", "rfd_tf.cli", "extract", f"--model={run}", f"--images={images}"]
    command += [f"--out={out}", "--outputs=features,block1", "--shard_size=10", "--batch_size=1", *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stop_when(process, out, count: int, number: int) -> tuple[int, str]:
    """Send a signal once there are `count` shards; status and output."""
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and not (out.exists() and len(shards(out)) >= count):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return finish(process)


def test_killed_stopped_and_continued(run, images, tmp_path):
    out = tmp_path / "out"
    status, _ = stop_when(start(run, images, out), out, 2, signal.SIGKILL)
    assert status == -signal.SIGKILL
    (out / ".features-00009-of-00024.1.partial.parquet").write_text("what a kill may leave")
    before = {name: (out / name).stat().st_mtime_ns for name in shards(out)}
    assert 2 <= len(before) < COUNT // 10
    assert not (out / "manifest.json").exists()

    status, output = stop_when(start(run, images, out), out, len(before) + 2, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM, output
    stopped_at = len(shards(out))
    assert f"Stopped by SIGTERM: {stopped_at} of {COUNT // 10} shards are written" in output
    assert "Traceback" not in output

    status, output = finish(start(run, images, out))
    assert status == 0, output
    assert output.splitlines()[-1] == f"Features: {out / 'manifest.json'}"
    assert f"{COUNT}/{COUNT}" in output
    assert not [name for name in os.listdir(out) if ".partial" in name]  # the killed process's is gone
    assert all((out / name).stat().st_mtime_ns == mtime for name, mtime in before.items())

    run_extract(opened(run), images, tmp_path / "whole", shard_size=100, batch_size=50)
    whole, found = load_features(tmp_path / "whole"), load_features(out)
    assert found[1].tolist() == whole[1].tolist() == list(range(COUNT))
    assert found[2] == whole[2]
    for name, values in whole[0].items():
        np.testing.assert_allclose(found[0][name], values, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--images=x", "--out=y"], 2, "--model is needed"),
        (["--model=x", "--out=y"], 2, "--images is needed"),
        (["--model=x", "--images=y"], 2, "--out is needed"),
        (["--model=x", "--images=y", "--out=z", "--format=csv"], 2, "csv"),
        (["--model=x", "--images=y", "--out=z", "--shard_size=0"], 2, "shard_size"),
        (["--model=x", "--images=y", "--out=z", "--batch_size=many"], 2, "many"),
        (["--model=x", "--images=y", "--out=z", "--on_error=ignore"], 2, "ignore"),
        (["--model=x", "--images=y", "--out=z", "--", "--region=r"], 2, "'--region=r' after `--`"),
        (["--model=RUN", "--images=/nowhere", "--out=OUT"], 1, "No images at /nowhere"),
        (["--model=/nowhere", "--images=IMAGES", "--out=OUT"], 1, "No model at /nowhere"),
        (["--model=RUN", "--images=IMAGES", "--out=OUT", "--outputs=conv9"], 1, "conv9"),
        (["--model=RUN", "--images=IMAGES", "--out=FILE"], 1, "FILE"),
        (["--model=RUN", "--images=IMAGES", "--out=FILE/below"], 1, "FILE"),
        (["--model=RUN", "--images=IMAGES", "--out=/proc/nowhere"], 1, "/proc/nowhere"),
    ],
)
def test_refused_in_one_clear_line(run, tmp_path, capsys, flags, status, message):
    (tmp_path / "FILE").write_text("a file")
    places = {"RUN": run, "IMAGES": write(tmp_path / "p", "1.jpg"), "OUT": tmp_path / "out"}
    places["FILE"] = tmp_path / "FILE"
    for word, place in places.items():
        flags = [flag.replace(word, str(place)) for flag in flags]
    assert cli.main(["rfd", "extract", *flags]) == status
    error = capsys.readouterr().err
    assert "rfd extract: " in error
    assert message in error
    assert "Traceback" not in error


def test_bad_images_on_the_terminal(run, tmp_path, capsys):
    folder = write(tmp_path / "p", "1.jpg", "2.jpg")
    (folder / "bad.jpg").write_bytes(b"nothing")
    flags = [f"--model={run}", f"--images={folder}", f"--out={tmp_path / 'out'}", "--format=npz"]
    assert cli.main(["rfd", "extract", *flags]) == 0
    printed = capsys.readouterr()
    assert "skipped bad.jpg: it is no JPEG" in printed.err
    assert "Skipped images: 1 (the first is bad.jpg: it is no JPEG" in printed.out
    assert list(load_features(tmp_path / "out")[0]) == ["features"]
    assert cli.main(["rfd", "extract", *flags[:2], f"--out={tmp_path / 'o'}", "--on_error=raise"]) == 1
    assert "bad.jpg: it is no JPEG" in capsys.readouterr().err


def test_a_full_disk(run, images, tmp_path, capsys, monkeypatch):
    """The shard in work is not left behind, and the error says what is wrong."""

    def full(*_, **__):
        raise OSError(28, "No space left on device", "features")

    monkeypatch.setattr("rfd_tf.features.shard_formats.Npz.write", full)
    flags = [f"--model={run}", f"--images={images}", f"--out={tmp_path / 'out'}", "--format=npz"]
    assert cli.main(["rfd", "extract", *flags]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out")) == [".lock", "settings.json"]


def test_one_process_at_a_time(run, images, tmp_path, capsys):
    from rfd_tf.files import LocalStorage

    flags = [f"--model={run}", f"--images={images}", f"--out={tmp_path / 'out'}"]
    with LocalStorage(tmp_path / "out").locked():
        assert cli.main(["rfd", "extract", *flags]) == 1
    assert "Another process writes to" in capsys.readouterr().err
