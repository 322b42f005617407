"""The same seed gives the same run twice, on one processor; another seed gives another run.

That a killed run ends like one that was not is the same promise, tested beside the runs. Of the batches
of pretraining see tests/data/test_pipeline.py.
"""

import numpy as np
import pytest

from tests.detection.test_inputs import batches, regions, source  # noqa: F401  the fixtures
from tests.faults.commands import COMMANDS, PLAIN, make_world, start
from tests.training import processes
from tests.zoo.mega_server import MegaServer


def test_detection_batches(source, regions):  # noqa: F811
    first, again, other = (batches(source, regions, seed=seed, epochs=1) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


def same(first, second) -> bool:
    import tensorflow as tf

    one, other = tf.nest.flatten(first), tf.nest.flatten(second)
    return len(one) == len(other) and all(map(np.array_equal, one, other))


@pytest.mark.slow
def test_pretraining(tmp_path):
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        processes.run(tmp_path / name, "--config.epochs=1", f"--config.seed={seed}")
    processes.assert_same_end(tmp_path / "first", tmp_path / "again")
    last = processes.latest_step(tmp_path / "first")
    one, other = (processes.state(tmp_path / name, last) for name in ("first", "other"))
    assert one.keys() == other.keys()
    kernels = [name for name in one if name.endswith("kernel")]
    assert kernels
    assert not any(np.array_equal(one[name], other[name]) for name in kernels)


@pytest.mark.slow
def test_probes(tmp_path):
    with MegaServer(PLAIN) as server:
        world = make_world(tmp_path / "world", server)
        for name, seed in (("first", 0), ("again", 0), ("other", 1)):
            command = COMMANDS["evaluate"]
            arguments = [*command.arguments(world, tmp_path / name), f"--config.seed={seed}"]
            process = start(type(command)(lambda *_, given=arguments: given, ""), world, tmp_path / name)
            _, errors = process.communicate()
            assert process.returncode == 0, errors
    folders = [tmp_path / name / "linear" for name in ("first", "again", "other")]
    processes.assert_same_end(folders[0], folders[1])
    last = processes.latest_step(folders[0])
    one, other = processes.state(folders[0], last), processes.state(folders[2], last)
    assert any(not np.array_equal(one[name], other[name]) for name in one)
