"""A full-size AlexNet in the released layout: time, memory, equality with PyTorch, bit-exact round trips."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.zoo.released import alexnet_state, save_torch
from tests.zoo.test_conversion import assert_same_features, assert_states_equal, torch_features
from zoo.torch_checkpoint import read_state_dict

ROOT = Path(__file__).parents[2]
MEASURE = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.call([sys.executable, "-m", "rfd_tf.cli.zoo", *sys.argv[1:]], stdout=sys.stderr)
seconds = time.monotonic() - start
print(json.dumps([code, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""


def command(*arguments) -> tuple[float, float]:
    """Run `rfd zoo` in a process of its own; its seconds and its peak memory in bytes."""
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    code, seconds, peak = json.loads(out.stdout)
    print(f"rfd zoo {arguments[0]} {Path(arguments[-1]).name}: {seconds:.1f} s, {peak / 1e6:.0f} MB")
    assert code == 0, out.stderr
    return seconds, peak


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "released.pth.tar"
    save_torch(path, alexnet_state(4096), legacy=True, prefix="module.")
    return path


@pytest.mark.slow
def test_conversion_matches_pytorch_within_time_and_memory(checkpoint):
    keras_file = checkpoint.with_name("a.keras")
    name = "rfd_alexnet_imagenet"
    seconds, peak = command("convert", name, f"--from_file={checkpoint}", f"--out={keras_file}")
    assert seconds < 30
    assert peak < 2e9
    from zoo.sources import read_keras

    images = np.random.default_rng(5).standard_normal((2, 224, 224, 3)).astype("float32")
    outputs = read_keras(keras_file)(images, training=False)
    assert_same_features(outputs, torch_features(read_state_dict(checkpoint), images, 4096))


@pytest.mark.slow
def test_round_trips_are_bit_exact(checkpoint):
    folder, name = checkpoint.parent, "rfd_alexnet_imagenet"
    command("convert", name, f"--from_file={checkpoint}", f"--out={folder / 'b.keras'}")
    command("convert", name, f"--from_file={folder / 'b.keras'}", f"--out={folder / 'b.pth'}")
    assert_states_equal(read_state_dict(folder / "b.pth"), read_state_dict(checkpoint))
    for ending in (".keras", ".pth"):
        (folder / f"b{ending}").unlink()


@pytest.mark.slow
def test_folded_to_caffe_and_back(checkpoint):
    folder = checkpoint.parent
    start = time.monotonic()
    source = f"--from_file={checkpoint}"
    command("convert", "rfd_alexnet_imagenet", "--fold", source, f"--out={folder / 'c.caffemodel'}")
    source = f"--from_file={folder / 'c.caffemodel'}"
    command("convert", "rfd_alexnet_voc", source, f"--out={folder / 'c.keras'}")
    source = f"--from_file={folder / 'c.keras'}"
    command("convert", "rfd_alexnet_voc", source, f"--out={folder / 'd.caffemodel'}")
    first, second = ((folder / f"{stem}.caffemodel").read_bytes() for stem in "cd")
    assert first[-1000:] == second[-1000:]
    assert len(first) == len(second)
    assert time.monotonic() - start < 180
