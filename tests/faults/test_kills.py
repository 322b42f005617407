"""SIGKILL at any moment: no file under a final name is partial, and the next run completes.

Of training, see also tests/training/test_resume.py; of probes, tests/evaluation/test_probe_protocols.py.
"""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.distribution.cluster import two_worker_configs
from tests.faults.commands import COMMANDS, PLAIN, make_world, start
from tests.faults.whole_files import check_whole
from tests.training import processes
from tests.zoo.mega_server import MegaServer

KILLS = 20
LIMIT = 600.0  # seconds that a command may take on a stalled machine
TRAINING = ("--config.method.rotation_head=ldam", "--config.ldam.start_epoch=1")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with MegaServer(PLAIN) as server:
        server.bytes_per_second = 400_000
        yield make_world(tmp_path_factory.mktemp("world"), server)


def half_written(folder: Path) -> list[Path]:
    """Files that are being written: they have temporary names, or lie in folders that have."""
    return [
        path
        for path in folder.rglob("*")
        if any(part.startswith((".", "partial-")) and "lock" not in part for part in path.parts)
        and path.is_file()
    ]


def kill_after(process: subprocess.Popen, seconds: float) -> None:
    """SIGKILL after so many seconds, if it has not ended by then."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def kill_while_writing(process: subprocess.Popen, folder: Path, skipped: int, delay: float) -> None:
    """SIGKILL `delay` seconds after the file number `skipped` began to be written, if it has not ended."""
    seen: set[Path] = set()
    end = time.monotonic() + LIMIT
    while process.poll() is None and len(seen) <= skipped:
        assert time.monotonic() < end
        seen.update(half_written(folder))
        time.sleep(0.0005)
    time.sleep(delay)
    process.kill()
    process.communicate()


def _checkpoints(folder: Path) -> int:
    return len(list(folder.rglob("checkpoints/step-*/state.h5")))


def survive(name: str, world, out: Path, kills: int, seed: int) -> int:
    """Kill a command so often, then let it end; how many kills hit it at work."""
    command, rng, hits = COMMANDS[name], random.Random(seed), 0
    began = time.monotonic()
    assert start(command, world, out / "whole").wait() == 0
    duration = time.monotonic() - began
    broken = out / "broken"
    for number in range(kills):
        process = start(command, world, broken)
        if number % 2:
            kill_after(process, rng.uniform(0.4, 1) * duration)
        else:
            kill_while_writing(process, broken, rng.randrange(2), rng.choice([0, 0, 0.001, 0.01]))
        hits += process.returncode == -signal.SIGKILL
        check_whole(broken)
    process = start(command, world, broken)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors
    assert (broken / command.result).exists()
    # One checkpoint more where the last kill came before the removal of the oldest.
    spare = _checkpoints(broken) - _checkpoints(out / "whole")
    assert spare in (0, 1)
    assert check_whole(broken) - spare == check_whole(out / "whole") > 0
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_killed_again_and_again(name, world, tmp_path, record_property):
    hits = survive(name, world, tmp_path, 4, seed=1)
    assert hits >= 1
    record_property("count: kills survived", hits)


@pytest.mark.slow
def test_training_is_killed_at_twenty_random_moments(tmp_path, record_property):
    """Half of them within the writing of a checkpoint; the end is the same, bit for bit."""
    whole, broken, rng, hits = tmp_path / "whole", tmp_path / "broken", random.Random(0), 0
    began = time.monotonic()
    processes.run(whole, *TRAINING)
    duration = time.monotonic() - began
    for number in range(KILLS):
        process = processes.start(broken, *TRAINING)
        if number % 2:
            kill_after(process, rng.uniform(0.3, 1) * duration)
        else:
            kill_while_writing(process, broken, 0, rng.choice([0, 0.001, 0.003, 0.01]))
        hits += process.returncode == -signal.SIGKILL
        check_whole(broken)
    processes.run(broken, *TRAINING)
    processes.assert_same_end(whole, broken)
    record_property("count: kills survived", hits)


@pytest.mark.slow
def test_one_of_two_workers_is_killed(tmp_path, record_property):
    """The other cannot go on alone; started again, both do."""

    def workers(folder):
        return [
            processes.start(folder, "--config.strategy=multi_worker", env={"TF_CONFIG": json.dumps(config)})
            for config in two_worker_configs()
        ]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for status, output in [processes.finish(worker) for worker in workers(whole)]:
        assert status == 0, output
    first, second = workers(broken)
    deadline = time.monotonic() + LIMIT
    while min(map(processes.latest_step, (broken, broken / "worker-1"))) < 6:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second.kill()
    second.communicate()
    try:
        first.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        first.kill()
        first.communicate()
    assert first.returncode != 0
    check_whole(broken)
    for status, output in [processes.finish(worker) for worker in workers(broken)]:
        assert status == 0, output
    last = processes.latest_step(whole)
    expected, found = processes.state(whole, last), processes.state(broken, last)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert abs(found[name] - value).max() <= 1e-4 * max(1.0, abs(value).max()), name
    record_property("count: kills survived", 1)
