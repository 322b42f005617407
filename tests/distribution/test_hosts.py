"""Workers on hosts of their own (network namespaces): they learn the same, and one that is lost is named."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.distribution import hosts
from tests.training import processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(hosts.why_not() is not None, reason=f"{hosts.why_not()}"),
]
LOST_AFTER = 90  # seconds at most from the fault to the message, on a machine that may be busy


@pytest.fixture
def two_hosts():
    with hosts.network(2) as network:
        yield network


def start(network, folders, *overrides, of_worker=None) -> list[subprocess.Popen]:
    """A worker on each host; `folders` is one workdir for all, or one for each."""
    started = []
    for index, host in enumerate(network):
        workdir = folders[index] if isinstance(folders, list) else folders
        own = (of_worker or {}).get(index, ())
        command = processes.command(workdir, "--config.strategy=multi_worker", *overrides, *own)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
        environment |= hosts.tf_config(network, index)
        started.append(
            subprocess.Popen(
                host.on(*command),
                cwd=processes.ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(workers, status: int = 0) -> list[str]:
    outputs = []
    try:
        for worker in workers:
            found, output = processes.finish(worker)
            assert found == status, output
            outputs.append(output)
    finally:
        for worker in workers:
            worker.kill()
    return outputs


def wait_for_step(workers, workdirs: list[Path], step: int) -> None:
    deadline = time.monotonic() + processes.LIMIT
    while min(map(processes.latest_step, workdirs)) < step:
        assert all(worker.poll() is None for worker in workers), finish(workers)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end_of(workdir: Path) -> dict[str, np.ndarray]:
    return processes.state(workdir, processes.latest_step(workdir))


def test_killed_cut_off_and_continued(two_hosts, tmp_path):
    """On separate disks. The end is that of a run that nothing happened to, on one disk."""
    whole, own = tmp_path / "whole", [tmp_path / "first", tmp_path / "second"]
    finish(start(two_hosts, whole))
    checkpoints = [own[0], own[1] / "worker-1"]

    workers = start(two_hosts, own)
    wait_for_step(workers, checkpoints, 3)
    workers[1].kill()
    killed = time.monotonic()
    output = finish(workers[:1], status=1)[0]
    assert time.monotonic() - killed < LOST_AFTER
    assert "Lost worker 1 (10.99.0.2:2222)" in output

    reached = min(map(processes.latest_step, checkpoints))
    workers = start(two_hosts, own)
    wait_for_step(workers, checkpoints, reached + 3)
    two_hosts[1].cut_off()
    cut = time.monotonic()
    outputs = finish(workers, status=1)
    assert time.monotonic() - cut < LOST_AFTER
    assert "Lost worker 1 (10.99.0.2:2222)" in outputs[0]
    assert "Lost worker 0 (10.99.0.1:2222)" in outputs[1]

    two_hosts[1].connect()
    finish(start(two_hosts, own))
    expected = end_of(whole)
    for folder in checkpoints:
        found = end_of(folder)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_four_hosts(tmp_path):
    with hosts.network(4) as network:
        finish(start(network, tmp_path / "run", "--config.epochs=1"))
    assert (tmp_path / "run" / "backbone.keras").exists()
    ends = [end_of(folder) for folder in (tmp_path / "run", *(tmp_path / "run").glob("worker-*"))]
    assert len(ends) == 4
    for end in ends[1:]:
        for name, value in ends[0].items():
            np.testing.assert_allclose(end[name], value, rtol=1e-6, err_msg=name)


def test_another_config_is_named(two_hosts, tmp_path):
    outputs = finish(
        start(two_hosts, tmp_path / "run", of_worker={1: ["--config.optimizer.momentum=0.8"]}), status=1
    )
    for output in outputs:
        assert "Started with another config than the first worker: worker 1 (10.99.0.2:2222)" in output
    assert not (tmp_path / "run" / "config.json").exists()


def test_other_images_are_named(two_hosts, tmp_path):
    for folder, name in (("here", "a.png"), ("there", "b.png")):
        _images(tmp_path / folder, name)
    common = ["--config.data.source=flat_folder", "--config.data.long_tail.profile=", "--config.data.name="]
    common += ["--config.validation.source="]
    roots = {i: [f"--config.data.root={tmp_path / folder}"] for i, folder in enumerate(("here", "there"))}
    for output in finish(start(two_hosts, tmp_path / "run", *common, of_worker=roots), status=1):
        assert "Not the images of the first worker: worker 1 (10.99.0.2:2222)" in output, output


def _images(folder: Path, last: str) -> None:
    import tensorflow as tf

    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype="uint8")
    for index, image in enumerate(pixels):
        name = f"z{index:03d}.png" if index else last
        (folder / name).write_bytes(tf.io.encode_png(image).numpy())


def test_a_full_disk_on_one_host(two_hosts, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
    try:
        outputs = finish(start(two_hosts, [tmp_path / "first", small]), status=1)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert "Lost worker 1 (10.99.0.2:2222)" in outputs[0]
    assert "No space left on device" in outputs[1]
    shutil.rmtree(tmp_path / "first")
