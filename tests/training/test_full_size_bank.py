"""ImageNet's bank, 1,281,167 x 128 float32: trains, saves and restores within the memory of one machine."""

import subprocess
import sys

import pytest

from tests.training.processes import LIMIT, ROOT

CODE = """
import resource, sys
import numpy as np
from rfd_tf.callbacks import TrainingCheckpoint
from rfd_tf.models import RotationDecoupling, resnet_cifar

N = 1_281_167
model = RotationDecoupling(resnet_cifar(20, (16, 16, 3), ["pool"], width=4), N)
model.compile("sgd")
rng = np.random.default_rng(0)
data = {"image": rng.normal(size=(16, 16, 16, 3)).astype("float32"), "index": rng.integers(0, N, 16)}
checkpoint = TrainingCheckpoint(sys.argv[1], steps_per_epoch=2)
model.fit(data, batch_size=8, verbose=0, callbacks=[checkpoint])
rows = model.memory_bank.rows.numpy()[data["index"]]
model.memory_bank.rows.assign(np.zeros((N, 128), "float32"))
checkpoint.restore(model, 2)
np.testing.assert_array_equal(model.memory_bank.rows.numpy()[data["index"]], rows)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_imagenets_bank_trains_saves_and_restores(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1])
    print(f"peak memory {peak / 1e9:.1f} GB, of which the table 0.66 GB")
    assert peak < 8e9
