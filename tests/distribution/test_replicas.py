"""One device, two replicas and two worker processes see the same batches and learn the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rfd_tf import distribution
from tests.distribution.cluster import two_worker_configs

ROOT = Path(__file__).parents[2]
LIMIT = 600


def start(path: Path, strategy: str, *names: str, tf_config: dict | None = None) -> subprocess.Popen:
    return start_module("two_replicas", str(path), strategy, *names, tf_config=tf_config)


def start_module(name: str, *arguments: str, tf_config: dict | None) -> subprocess.Popen:
    """`python -m tests.distribution.NAME`."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TF_CONFIG", None)
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    command = [sys.executable, "-m", f"tests.distribution.{name}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def result(process: subprocess.Popen, path: Path) -> dict[str, np.ndarray]:
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, output
    with np.load(path) as results:
        return dict(results)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "out.npz"
    return result(start(path, "one_device"), path)


def assert_same(found, expected):
    for name in expected.keys() - {"banks", "normalizers"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
    for bank in found["banks"]:
        np.testing.assert_array_equal(bank, found["banks"][0])  # the same on every replica, to the bit
        np.testing.assert_allclose(bank, expected["banks"][0], atol=1e-5)
    np.testing.assert_allclose(found["normalizers"], expected["normalizers"][0], rtol=1e-6)


def test_two_mirrored_replicas_learn_what_one_device_learns(one_device, tmp_path):
    path = tmp_path / "out.npz"
    found = result(start(path, "mirrored"), path)
    assert len(found["banks"]) == 2
    assert_same(found, one_device)


LIBRARIES = ("keras_cv.ResNet18", "keras_hub.ResNet18", "keras.applications.MobileNetV2")
NESTED = "tests.distribution.two_replicas:nested_network"


@pytest.mark.parametrize(
    "name", [NESTED, *(pytest.param(name, marks=pytest.mark.slow) for name in LIBRARIES)]
)
def test_other_backbones_learn_on_two_replicas_what_they_learn_on_one(name, tmp_path):
    if name.startswith("keras_hub"):
        pytest.importorskip("keras_hub")
    path = tmp_path / "out.npz"
    found = result(start(path, "backbone", name), path)
    of_two, of_one = (
        {key.rpartition("/")[2]: value for key, value in found.items() if key.startswith(kind)}
        for kind in ("mirrored", "one_device")
    )
    assert "weight003" in of_one
    assert_same(of_two, of_one)


def start_two_workers(folder: Path, *without: str) -> dict[Path, subprocess.Popen]:
    paths = [folder / f"worker{index}.npz" for index in range(2)]
    return {
        path: start(path, "multi_worker", *without, tf_config=tf_config)
        for path, tf_config in zip(paths, two_worker_configs(), strict=True)
    }


def test_two_worker_processes_learn_what_one_device_learns(one_device, tmp_path):
    workers = start_two_workers(tmp_path)
    found = [result(process, path) for path, process in workers.items()]
    np.testing.assert_array_equal(found[0]["banks"], found[1]["banks"])
    for worker in found:
        assert_same(worker, one_device)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workaround", "failure"),
    [
        ("_no_symbolic_build", "PerReplica"),
        ("_scalar_logs_averaged", "Invalid reduction dimension 0"),
    ],
)
def test_each_workaround_is_still_needed(workaround, failure, tmp_path):
    """Where this fails because the run succeeded, remove the work-around."""
    workers = start_two_workers(tmp_path, workaround)
    outputs = []
    for process in workers.values():
        try:
            outputs.append(process.communicate(timeout=LIMIT)[0])
        finally:
            process.kill()
        assert process.returncode != 0, f"{workaround} is no longer needed"
    assert failure in "".join(outputs)


def growth(*without: str) -> list[int]:
    """Bytes by which two workers grow over `collectives.STEPS` steps."""
    configs = two_worker_configs()
    workers = [start_module("collectives", *without, tf_config=config) for config in configs]
    try:
        outputs = [worker.communicate(timeout=LIMIT)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [int(output.rpartition("grew by ")[2].split()[0]) for output in outputs]


@pytest.mark.slow
def test_steps_of_several_workers_leave_no_memory_behind():
    """24,000 collective operations; where the last line fails, `_collective_keys_reused` is not needed."""
    assert max(growth()) < 8 * 2**20
    assert min(growth("_collective_keys_reused")) > 24 * 2**20, "TensorFlow keeps nothing any more"


def test_unknown_strategy_and_missing_cluster(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="'tpu'"):
        distribution.create_strategy("tpu")
    with pytest.raises(ValueError, match="TF_CONFIG"):
        distribution.create_strategy("multi_worker")
    with pytest.raises(ValueError, match="logical_cpus"):
        distribution.create_strategy("one_device", logical_cpus=2)
