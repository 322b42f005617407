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
def pictures(tmp_path):
    """24 pictures of two classes; one of them cut in half."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            image = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype="uint8"))
            image.save(tmp_path / "pictures" / name / f"{number:02d}.jpg")
    broken = tmp_path / "pictures" / "b" / "07.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    return tmp_path / "pictures"


def test_a_corrupt_image_is_named(pictures, tmp_path):
    options = (*OPTIONS, f"--config.data.root={pictures}", "--config.data.on_error=raise")
    status, output = processes.finish(processes.start(tmp_path / "run", *options))
    assert status == 1
    assert str(pictures / "b" / "07.jpg") in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_corrupt_image_is_skipped_counted_and_listed(pictures, tmp_path):
    options = (*OPTIONS, f"--config.data.root={pictures}", "--config.data.on_error=skip")
    output = processes.run(tmp_path / "run", *options)
    assert "1 corrupt images" in output
    assert str(pictures / "b" / "07.jpg") in output.split("1 corrupt images")[1]
    assert (tmp_path / "run" / "backbone.keras").exists()


def test_a_loss_that_explodes_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    options = ("--config.optimizer.weight_decay=1e30",)
    status, output = processes.finish(processes.start(workdir, *options))
    assert status == 1
    message = output.splitlines()[-1]
    assert "Step " in message
    assert "_loss=" in message
    step = int(message.split("Step ")[1].split(":")[0])
    assert all(saved < step for saved in processes.steps(workdir))
    assert not (workdir / "backbone.keras").exists()
