"""What is installed under which name, and that it is found from any folder."""

import os
import subprocess
import sys
from pathlib import Path

import setuptools

ROOT = Path(__file__).parents[2]


def test_configs_are_installed_within_the_package(monkeypatch):
    asked = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: asked.update(options))
    monkeypatch.chdir(ROOT)
    exec(compile(Path("setup.py").read_text(), str(ROOT / "setup.py"), "exec"), {"__file__": "setup.py"})
    assert {package.split(".")[0] for package in asked["packages"]} == {"rfd_tf", "zoo"}
    assert {"rfd_tf.configs", "rfd_tf.configs.evaluate"} <= set(asked["packages"])
    assert asked["package_dir"] == {"rfd_tf.configs": "configs"}


def test_a_folder_with_packages_of_the_same_names_is_not_in_the_way(tmp_path):
    """`python -m` looks into the current folder first."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise ImportError('not these')")
    command = [sys.executable, "-m", "rfd_tf.cli.train", "--config=digits_lt", "--config.epochs=0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [*command, "--workdir=run"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "`epochs` must be at least 1. Received: epochs=0" in run.stderr
    assert run.returncode == 1
