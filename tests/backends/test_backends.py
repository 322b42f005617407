"""Layers, losses, models and the compound training step agree on every installed backend."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def train_on(backend: str, folder: Path) -> dict[str, np.ndarray]:
    path = folder / f"{backend}.npz"
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_ENABLE_X64": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.train_on_backend", str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    with np.load(path) as results:
        return dict(results)


@pytest.fixture(scope="module")
def on_tensorflow(tmp_path_factory):
    return train_on("tensorflow", tmp_path_factory.mktemp("tensorflow"))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backend_agrees_with_tensorflow(backend, on_tensorflow, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    found = train_on(backend, tmp_path)
    assert str(found.pop("backend")) == backend
    expected = {name: value for name, value in on_tensorflow.items() if name != "backend"}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, np.abs(value).max())
        assert np.abs(found[name] - value).max() / scale < 1e-4, name


def test_reweighting_and_instance_weights_acted(on_tensorflow):
    """Otherwise the comparison above would not have covered them."""
    losses = on_tensorflow["classifier/loss"]
    assert np.isfinite(losses).all()
    assert abs(losses[1] - losses[0]) > 0.05
