"""`benchmarks/day_of_training.py` in small: stopped again and again, a run ends as if it had not been."""

import random
import signal

import pytest

from benchmarks.day_of_training import (
    STEPS_PER_EPOCH,
    Job,
    difference,
    disturbed,
    draw_stop,
    live,
    same_history,
    summary,
)

STOPS = 4


@pytest.mark.slow
def test_a_run_that_is_stopped_at_random_moments_ends_the_same(tmp_path, record_property):
    """Bit-equal on one device; no temporary file stays, and the disk holds what it held before."""
    whole, broken = Job(tmp_path / "whole", epochs=1), Job(tmp_path / "broken", epochs=1)
    whole.folder.mkdir()
    broken.folder.mkdir()
    calm = live(whole, sample_steps=8)
    lives = disturbed(broken, STOPS, seed=3, starting=calm["seconds_to_first_step"])
    figures = summary(whole, calm, broken, lives)
    assert figures["checkpoints"] == STEPS_PER_EPOCH
    assert sum(figures["stops"].values()) == STOPS
    assert difference(whole, broken) == 0
    assert same_history(whole, broken)
    assert whole.disk()["temporary"] == broken.disk()["temporary"] == 0
    # One checkpoint more where the last stop came before the removal of the oldest.
    assert broken.disk()["files"] - whole.disk()["files"] in (0, 1)
    checkpoint = max(each.stat().st_size for each in whole.workdir.rglob("state.h5"))
    # Three are kept, a fourth is being written, and of a fifth the room is made sure of or it is removed.
    assert all(sample["bytes"] <= 5 * checkpoint + 50_000 for sample in calm["samples"])
    assert all(life["disk"]["bytes"] <= 5 * checkpoint + 250_000 for life in lives)
    record_property("count: kills survived", STOPS)


def test_stops_are_a_mix_and_leave_no_worker_to_wait():
    rng = random.Random(0)
    stops = [draw_stop(rng, workers=2, mean_steps=10, starting=5.0) for _ in range(400)]
    assert {stop.signal for stop in stops} == {signal.SIGKILL, signal.SIGTERM, signal.SIGINT}
    assert {stop.workers for stop in stops} == {(0,), (1,), (0, 1)}
    for stop in stops:
        if stop.signal == signal.SIGKILL or stop.steps is None:
            assert stop.workers == (0, 1)
    assert any(stop.steps is None for stop in stops)
    assert {stop.steps for stop in stops} - {None} == set(range(1, 21))


def test_other_ends_are_seen(tmp_path):
    """A comparison that could not fail would prove nothing."""
    import h5py

    jobs = [Job(tmp_path / name, epochs=1) for name in ("whole", "broken")]
    for job, value in zip(jobs, (1.0, 1.5), strict=True):
        folder = job.workdir / "checkpoints" / "step-0000000068"
        folder.mkdir(parents=True)
        (job.workdir / ".config.7.partial.json").touch()
        with h5py.File(folder / "state.h5", "w") as file:
            for group in ("model", "optimizer"):
                stored = file.create_group(group).create_dataset("00000", data=[0.0, value])
                stored.attrs["path"] = "kernel"
    assert jobs[0].last_step() == 68
    assert difference(jobs[0], jobs[0]) == 0
    assert difference(*jobs) == 0.5
    assert jobs[0].disk()["temporary"] == 1
