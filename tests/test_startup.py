"""Nothing heavy is loaded before it is used, so that commands answer at once (`benchmarks/startup.py`)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rfd_tf import cli

ROOT = Path(__file__).parents[1]
HEAVY = (
    *(
        "cryptography",
        "cv2",
        "google.protobuf",
        "grpc",
        "h5py",
        "jax",
        "keras",
        "matplotlib",
        "numpy",
        "onnx",
    ),
    *(
        "onnxruntime",
        "openvino",
        "pandas",
        "pyarrow",
        "requests",
        "scipy",
        "sklearn",
        "tensorboard",
        "tensorflow",
    ),
    *("tensorflow_datasets", "tf2onnx", "torch"),
)


def loaded_after(code: str) -> list[str]:
    """Which heavy modules a new process has loaded when it has run `code`."""
    report = f"import sys, json; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", ["rfd_tf", "zoo"])
def test_importing_a_package_loads_nothing_heavy(package):
    assert loaded_after(f"import {package}; dir({package})") == []


@pytest.mark.parametrize("command", ["--help", *cli.COMMANDS])
def test_help_of_a_command_loads_nothing_heavy(command):
    arguments = ["rfd", command] if command == "--help" else ["rfd", command, "--help"]
    assert loaded_after(f"from rfd_tf import cli; assert cli.main({arguments}) == 0") == []


def test_what_is_loaded_would_be_seen():
    assert loaded_after("import numpy") == ["numpy"]
