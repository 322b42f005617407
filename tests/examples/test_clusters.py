"""What sets TF_CONFIG on clusters, with the variables that they set and an `rfd` that prints it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples" / "clusters"
SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
    "SLURM_STEP_NODELIST": "node[07-08,11]",
}


@pytest.fixture
def environment(tmp_path):
    printing = tmp_path / "bin" / "rfd"
    printing.parent.mkdir()
    printing.write_text('#!/bin/sh\necho "$TF_CONFIG"; echo "$@"\n')
    printing.chmod(0o755)
    return {**os.environ, "PATH": f"{printing.parent}:{os.environ['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(command: list[str], environment: dict) -> tuple[dict, str]:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    config, arguments = done.stdout.splitlines()
    return json.loads(config), arguments


def test_slurm(environment):
    command = [sys.executable, str(EXAMPLES / "slurm_worker.py"), "--config=imagenet", "--workdir=run"]
    config, arguments = run(command, environment | SLURM)
    assert config["cluster"] == {"worker": ["node07:2222", "node08:2222", "node11:2222"]}
    assert config["task"] == {"type": "worker", "index": 1}
    assert arguments == "train --config=imagenet --workdir=run"


def test_kubernetes(environment):
    service, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]
    container = pod["spec"]["containers"][0]
    set_there = {each["name"]: each["value"] for each in container["env"]}
    config, arguments = run(container["command"], environment | set_there | {"JOB_COMPLETION_INDEX": "1"})
    # The names that Kubernetes gives the pods of an indexed job with a subdomain.
    names = [f"{job['metadata']['name']}-{index}" for index in range(job["spec"]["completions"])]
    port = service["spec"]["ports"][0]["port"]
    assert config["cluster"]["worker"] == [f"{name}.{pod['spec']['subdomain']}:{port}" for name in names]
    assert config["task"] == {"type": "worker", "index": 1}
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert pod["metadata"]["labels"] == service["spec"]["selector"]
    assert arguments.startswith("train --config=imagenet --config.strategy=multi_worker")
