"""Workers on hosts of their own (network namespaces): they learn the same, and one that is lost is named."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rfd_tf.evaluation.results import load_result
from tests.distribution import hosts
from tests.evaluation import tiny
from tests.serving import mean_model
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


def start(network, folders, *overrides, of_worker=None, clocks=None) -> list[subprocess.Popen]:
    """A worker on each host; `folders` is one workdir for all, or one for each.

    Args:
        of_worker: index -> further arguments.
        clocks: index -> by how much its clock is off.
    """
    started = []
    for index, host in enumerate(network):
        workdir = folders[index] if isinstance(folders, list) else folders
        own = (of_worker or {}).get(index, ())
        command = processes.command(workdir, "--config.strategy=multi_worker", *overrides, *own)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
        environment |= hosts.tf_config(network, index)
        if index in (clocks or {}):
            environment |= hosts.shifted_clock(clocks[index])
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


def assert_same_end(checkpoints: list[Path], expected: dict[str, np.ndarray]) -> None:
    for folder in checkpoints:
        found = end_of(folder)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The end of pretraining on two hosts that nothing happens to, on one disk."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    with hosts.network(2) as network:
        finish(start(network, workdir))
    return end_of(workdir)


def test_killed_cut_off_and_continued(two_hosts, undisturbed, tmp_path, record_property):
    """On separate disks."""
    own = [tmp_path / "first", tmp_path / "second"]
    checkpoints = [own[0], own[1] / "worker-1"]

    workers = start(two_hosts, own)
    wait_for_step(workers, checkpoints, 3)
    workers[1].kill()
    killed = time.monotonic()
    output = finish(workers[:1], status=1)[0]
    record_property("killed, named after seconds", time.monotonic() - killed)
    assert time.monotonic() - killed < LOST_AFTER
    assert "Lost worker 1 (10.99.0.2:2222)" in output

    reached = min(map(processes.latest_step, checkpoints))
    workers = start(two_hosts, own)
    wait_for_step(workers, checkpoints, reached + 3)
    two_hosts[1].cut_off()
    cut = time.monotonic()
    outputs = finish(workers, status=1)
    record_property("cut off, named after seconds", time.monotonic() - cut)
    assert time.monotonic() - cut < LOST_AFTER
    assert "Lost worker 1 (10.99.0.2:2222)" in outputs[0]
    assert "Lost worker 0 (10.99.0.1:2222)" in outputs[1]

    two_hosts[1].connect()
    finish(start(two_hosts, own))
    assert_same_end(checkpoints, undisturbed)


@pytest.mark.parametrize(("rate", "queue", "lossy"), [("4mbit", "2s", False), ("8mbit", "5ms", True)])
def test_a_slow_link(two_hosts, undisturbed, tmp_path, rate, queue, lossy):
    """It takes its time, and nobody counts as lost."""
    two_hosts[1].slow_down(rate, queue)
    run = tmp_path / "run"
    finish(start(two_hosts, run))
    found = two_hosts[1].packets()
    assert found["overlimits"] > 1000
    assert (found["drops"] > 20) if lossy else (found["drops"] == 0), found
    assert_same_end([run, run / "worker-1"], undisturbed)


@pytest.mark.skipif(hosts.faketime() is None, reason="Debian's package faketime is not installed")
def test_clocks_apart(two_hosts, undisturbed, tmp_path):
    """The second host's is two hours ahead, then a year behind; checkpoints go by their step."""
    for by, seconds in (("+2h", 7200), ("-1y", -365 * 86400)):
        command = two_hosts[1].on(sys.executable, "-c", "import time; print(time.time())")
        told = subprocess.check_output(command, env=os.environ | hosts.shifted_clock(by), text=True)
        assert abs(float(told) - time.time() - seconds) < 60
    run = tmp_path / "run"
    checkpoints = [run, run / "worker-1"]
    workers = start(two_hosts, run, clocks={1: "+2h"})
    wait_for_step(workers, checkpoints, 6)
    workers[0].send_signal(signal.SIGTERM)
    finish(workers, status=128 + signal.SIGTERM)
    reached = min(map(processes.latest_step, checkpoints))
    for folder in checkpoints:  # the newest step has the oldest time
        for path in (folder / "checkpoints").glob("step-*"):
            when = time.time() - 3600 * int(path.name[5:])
            os.utime(path, (when, when))
    outputs = finish(start(two_hosts, run, clocks={1: "-1y"}))
    for output in outputs:
        assert f"Continuing after step {reached}" in output, output
    assert_same_end(checkpoints, undisturbed)


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


CALLS = {"timeout": 6, "deadline": 12, "seed": 0}  # how long the client says that a call takes at most


@pytest.fixture(scope="module")
def means(tmp_path_factory):
    return mean_model.write_means(tmp_path_factory.mktemp("means"))


@contextlib.contextmanager
def on_host(host, module: str, *arguments: str):
    """A process of one of the tests' modules."""
    process = subprocess.Popen(
        host.on(sys.executable, "-m", module, *arguments),
        cwd=processes.ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def served(two_hosts, means):
    """By protocol, addresses of a server on the first host."""
    host = two_hosts[0].address
    arguments = [f"--saved_model={means}", f"--name={mean_model.NAME}", f"--host={host}"]
    with on_host(two_hosts[0], "tests.serving.server", *arguments) as server:
        yield {kind: server.stdout.readline().strip() for kind in ("grpc", "rest")}


class Calls:
    """Calls from a process on a host, as of `calls`."""

    def __init__(self, process):
        self._process = process
        assert process.stdout.readline() == "ready\n"

    def begin(self, images: int = 1) -> None:
        self._process.stdin.write(f"{images}\n")
        self._process.stdin.flush()

    def end(self) -> dict:
        answer = json.loads(self._process.stdout.readline())
        assert answer["seconds"] < CALLS["deadline"] + 1
        return answer

    def succeeds(self, images: int = 1) -> None:
        self.begin(images)
        assert self.end().get("features") == [images - 1] * 3


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_the_servers_host_is_cut_off(two_hosts, served, kind):
    """For the first seconds of a call; then during one, and before the next."""
    address, options = served[kind], json.dumps(CALLS)
    with on_host(two_hosts[1], "tests.distribution.calls", address, options) as process:
        calls = Calls(process)
        calls.succeeds()
        two_hosts[0].cut_off()
        calls.begin()
        time.sleep(2)
        two_hosts[0].connect()
        assert calls.end().get("features") == [0] * 3

        two_hosts[0].slow_down("500kbit")
        calls.begin(4000)
        time.sleep(1.5)
        two_hosts[0].cut_off()
        during = calls.end()
        assert f"{address} gave no answer within" in during["error"]

        calls.begin()
        assert address in calls.end()["error"]

        two_hosts[0].connect()
        answers = []
        while not answers or ("error" in answers[-1] and len(answers) < 5):
            calls.begin()  # TCP sends again after as long a time as it has already waited
            answers.append(calls.end())
        assert answers[-1].get("features") == [0] * 3, answers


@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_a_server_that_is_not_there_yet(two_hosts, served, kind):
    """Its host joins the network while the client tries."""
    options = json.dumps(CALLS)
    two_hosts[0].cut_off()
    with on_host(two_hosts[1], "tests.distribution.calls", served[kind], options) as process:
        calls = Calls(process)
        calls.begin()
        time.sleep(5)
        two_hosts[0].connect()
        assert calls.end().get("features") == [0] * 3


def test_probes(two_hosts, tmp_path):
    """Killed and continued, on two hosts: one device's figures and weights."""
    tiny.write_images(tmp_path / "pictures.npz")
    status, output = processes.finish(evaluation(two_hosts[0], tmp_path / "one"))
    assert status == 0, output

    def together(**others):
        config = {"strategy": "multi_worker"}
        return [
            evaluation(host, tmp_path / "two", hosts.tf_config(two_hosts, i), **config, **others)
            for i, host in enumerate(two_hosts)
        ]

    folders = [tmp_path / "two", tmp_path / "two" / "worker-1"]
    workers = together()
    wait_for_step(workers, folders, 5)
    workers[1].kill()
    output = finish(workers[:1], status=1)[0]
    assert "Lost worker 1 (10.99.0.2:2222)" in output
    for output in finish(together()):
        assert "Continuing after step" in output
    assert_same_end(folders, end_of(tmp_path / "one"))
    assert (
        load_result(tmp_path / "two" / "evaluation.json").figures
        == load_result(tmp_path / "one" / "evaluation.json").figures
    )


def evaluation(host, workdir: Path, environment=None, **changes) -> subprocess.Popen:
    """Linear probes on a tiny network."""
    job = {"protocol": "linear", "workdir": str(workdir), "pictures": str(workdir.parent / "pictures.npz")}
    job["changes"] = {"checkpoint_steps": 1, "epochs": 10, "optimizer__milestones": [[10, 0.01]], **changes}
    path = workdir.parent / f"{host.name}-{workdir.name}.json"
    path.write_text(json.dumps([job]))
    return subprocess.Popen(
        host.on(sys.executable, "-m", "tests.evaluation.probe_process", str(path)),
        cwd=processes.ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
