"""`rfd train` on several replicas and on two workers, killed and resumed."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from tests.distribution.cluster import two_worker_configs
from tests.training import processes

MULTI_WORKER = ("--config.strategy=multi_worker",)


def start_workers(workdir, *overrides):
    environments = [{"TF_CONFIG": json.dumps(config)} for config in two_worker_configs()]
    return [
        processes.start(workdir, *MULTI_WORKER, *overrides, env=environment) for environment in environments
    ]


def finish_workers(workers):
    for status, output in [processes.finish(worker) for worker in workers]:
        assert status == 0, output


def final_states(workdir):
    folders = (workdir, workdir / "worker-1")
    return [processes.state(folder, processes.latest_step(folder)) for folder in folders]


@pytest.mark.slow
def test_two_workers_are_killed_and_resume(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish_workers(start_workers(whole))
    expected = final_states(whole)

    workers = start_workers(broken)
    deadline = time.monotonic() + processes.LIMIT
    while min(map(processes.latest_step, (broken, broken / "worker-1"))) < 6:
        assert all(worker.poll() is None for worker in workers), [processes.finish(w) for w in workers]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    for worker in workers:
        processes.finish(worker)
    finish_workers(start_workers(broken))

    found = final_states(broken)
    # A worker that came back without its checkpoints must not make the others start over.
    shutil.rmtree(broken / "worker-1" / "checkpoints")
    for status, output in [processes.finish(worker) for worker in start_workers(broken)]:
        assert status == 1
        assert "no checkpoint of the same step" in output
    bank = next(name for name in expected[0] if name.endswith("memory_bank/rows"))
    for states in (expected, found):  # both workers hold the same table
        np.testing.assert_array_equal(states[0][bank], states[1][bank])
    for name, value in expected[0].items():
        np.testing.assert_allclose(found[0][name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert (broken / "history.csv").exists()
    assert not (broken / "worker-1" / "history.csv").exists()


def test_a_signal_to_one_worker_stops_both_at_the_same_step(tmp_path):
    workers = start_workers(tmp_path / "run", "--config.epochs=50")
    folders = (tmp_path / "run", tmp_path / "run" / "worker-1")
    deadline = time.monotonic() + processes.LIMIT
    while min(map(processes.latest_step, folders)) < 3:
        assert all(worker.poll() is None for worker in workers), [processes.finish(w) for w in workers]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers[1].send_signal(signal.SIGTERM)
    for status, output in [processes.finish(worker) for worker in workers]:
        assert status == 128 + signal.SIGTERM, output
    assert processes.latest_step(folders[0]) == processes.latest_step(folders[1])


@pytest.mark.slow
@pytest.mark.parametrize("bank", ["replicated", "sharded"])
def test_mirrored_on_two_logical_cpus(bank, tmp_path):
    workdir = tmp_path / "run"
    processes.run(
        workdir,
        "--config.strategy=mirrored",
        "--config.logical_cpus=2",
        "--config.epochs=1",
        "--config.tensorboard=True",
        f"--config.method.bank={bank}",
    )
    assert (workdir / "backbone.keras").exists()
    assert (workdir / "heads.keras").exists()
    assert len((workdir / "history.csv").read_text().splitlines()) == 2
