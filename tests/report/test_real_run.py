"""From training to the page, as a user does it."""

import subprocess
import sys

import pytest

from tests.report.looked_at import look_at
from tests.training.processes import ROOT, run


@pytest.mark.slow
def test_train_then_report(tmp_path, chromium):
    run(tmp_path / "run", "--config.tensorboard=True")
    command = [sys.executable, "-m", "rfd_tf.cli", "report", f"--workdir={tmp_path / 'run'}", "--projector"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "tensorboard" / "projector" / "sprite.png").stat().st_size > 0
    page = tmp_path / "run" / "report.html"
    assert 100_000 < page.stat().st_size < 5_000_000
    assert "Left out" not in page.read_text()
    for width in (1280, 360):
        look_at(chromium, page, width)
    # The finished run still belongs to its folder.
    assert "Trained" in run(tmp_path / "run", "--config.tensorboard=True")
