"""Corrupt images and losses in a real run."""

import numpy as np
import pytest
from PIL import Image

from tests.training import processes

OPTIONS = (
    "--config.data.source=image_folder",
    "--config.data.long_tail.profile=",
    "--config.validation.source=",
    "--config.epochs=1",
    "--config.batch_size=8",
)


@pytest.fixture
def images(tmp_path):
    """24 images of two classes; one of them cut in half."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            image = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype="uint8"))
            image.save(tmp_path / "pictures" / name / f"{number:02d}.jpg")
    broken = tmp_path / "pictures" / "b" / "07.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    return tmp_path / "pictures"


def test_a_corrupt_image_is_named(images, tmp_path, capsys):
    options = (*OPTIONS, f"--config.data.root={images}", "--config.data.on_error=raise")
    assert processes.train_here(tmp_path / "run", *options) == 1
    output = capsys.readouterr().err
    assert str(images / "b" / "07.jpg") in output.splitlines()[-1]
    assert "Traceback" not in output


def test_corrupt_images_are_skipped_counted_and_listed(images, tmp_path, caplog):
    """What TensorFlow cannot decode as well."""
    Image.new("RGB", (8, 8)).save(images / "a" / "scan.tif")
    options = (*OPTIONS, f"--config.data.root={images}", "--config.data.on_error=skip")
    with caplog.at_level("WARNING", "absl"):
        assert processes.train_here(tmp_path / "run", *options) == 0
    listed = caplog.text.split("2 corrupt images")[1]
    assert str(images / "b" / "07.jpg") in listed
    assert str(images / "a" / "scan.tif") in listed
    assert (tmp_path / "run" / "backbone.keras").exists()


def test_a_loss_that_explodes_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, capsys):
    """The rate of the second epoch ruins the weights in its first step, and the loss in its second."""
    workdir = tmp_path / "run"
    options = ("--config.optimizer.milestones=((1,0.03),(2,1e30))", "--config.checkpoint_steps=1")
    assert processes.train_here(workdir, *options) == 1
    output = capsys.readouterr().err
    message = output.splitlines()[-1]
    assert "Traceback" not in output
    step = int(message.split("Step ")[1].split(":")[0])
    assert "_loss=" in message
    epoch_end = step - 2
    # Not that of the step before, whose weights are ruined already.
    assert processes.latest_step(workdir) == epoch_end
    for name, value in processes.state(workdir, epoch_end).items():
        assert np.abs(value).max() < 1e4, name
    assert not (workdir / "backbone.keras").exists()


def test_a_start_that_failed_does_not_lock_the_folder(tmp_path):
    assert processes.train_here(tmp_path / "run", "--config.batch_size=10000") == 1
    assert processes.train_here(tmp_path / "run", "--config.epochs=1") == 0
