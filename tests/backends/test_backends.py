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


COUNT_TRACES = """
import keras, numpy as np
from rfd_tf.models import resnet_cifar
from rfd_tf.models.inference import extract_features

traces = 0

class Counted(keras.layers.Layer):
    def call(self, inputs):
        global traces
        traces += 1
        return inputs

inputs = keras.Input((8, 8, 3))
backbone = keras.Model(inputs, {"maps": Counted()(keras.layers.Conv2D(4, 3)(inputs))})
rng = np.random.default_rng(0)
images = rng.normal(size=(5, 4, 8, 8, 3)).astype("float32")
batches = [{"image": batch, "index": np.arange(4)} for batch in images]
expected = np.concatenate([np.asarray(backbone(b["image"])["maps"]).mean(axis=(1, 2)) for b in batches])
traces = 0
features, index = extract_features(backbone, batches, "maps")
np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
print("traces:", traces)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_features_are_compiled_once(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_TRACES], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # Once to build the model of the one feature, once to compile it.
    assert int(done.stdout.split("traces:")[1]) <= 2
