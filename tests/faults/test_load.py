"""Eight callers at once for two minutes: no error, no leak; how long an answer takes."""

import concurrent.futures
import itertools
import os
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rfd_tf.serving import BadInputError, ServingClient
from tests.data.images import encoded, random_image
from tests.serving.exported import NAME, export, tiny_feature_model
from tests.serving.server import ModelServer

CALLERS, SECONDS, WARM_UP = 8, 120.0, 20.0
MOST_GROWTH = 64 << 20  # bytes of memory, client and server together, over the time after the warm-up
MOST_MORE = 8  # threads or open files that come and go


def occupied() -> tuple[int, int, int]:
    """Resident bytes, threads and open files of this process."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resident, threading.active_count(), len(os.listdir("/proc/self/fd"))


def call_until(end: float, address: str, shared: ServingClient | None, expected, inputs) -> list[float]:
    """Arrays, good images and a bad one in turn, each checked; the seconds that each answer took."""
    images, files = inputs
    client = shared or ServingClient(address)
    seconds = []
    for number in itertools.count():
        begun = time.monotonic()
        if begun > end:
            break
        if number % 5 == 4:
            with pytest.raises(BadInputError, match="image 1 of the batch"):
                client.features_of_files([files[0], files[1][:200]])
            continue
        found = client.features_of_files(files) if number % 2 else client.features(images)
        seconds.append(time.monotonic() - begun)
        for name, values in expected["jpeg" if number % 2 else "arrays"].items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
    if shared is None:
        client.close()
    return seconds


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_eight_callers_for_two_minutes(kind, tmp_path, record_property):
    """Threads share a client of gRPC; of REST each has its own."""
    feature_model = tiny_feature_model()
    export(feature_model, tmp_path)
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    files = [encoded(random_image(seed=seed)) for seed in range(3)]
    with ModelServer(tmp_path / "saved_model", NAME) as server:
        address = getattr(server, f"{kind}_address")
        with ServingClient(address) as client:
            expected = {"arrays": feature_model(images), "jpeg": client.features_of_files(files)}
            shared = client if kind == "grpc" else None
            end = time.monotonic() + SECONDS
            with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
                calls = [
                    pool.submit(call_until, end, address, shared, expected, (images, files))
                    for _ in range(CALLERS)
                ]
                time.sleep(WARM_UP)
                before = occupied()
                time.sleep(max(0.0, end - time.monotonic() - 1))
                after = occupied()
                seconds = np.concatenate([call.result() for call in calls])
    assert after[0] - before[0] < MOST_GROWTH, f"{before} -> {after}"
    assert after[1] - before[1] <= MOST_MORE, f"{before} -> {after}"
    assert after[2] - before[2] <= MOST_MORE, f"{before} -> {after}"
    assert len(seconds) > 100
    p50, p95, p99 = 1000 * np.percentile(seconds, (50, 95, 99))
    record_property("count: requests served", len(seconds))
    grown = (after[0] - before[0]) / 2**20
    record_property(
        f"measured: {kind}, {CALLERS} callers",
        f"{len(seconds)} answers, p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms; {grown:+.1f} MiB",
    )
