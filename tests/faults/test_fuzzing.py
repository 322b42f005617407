"""Ten thousand broken inputs to every reader of foreign bytes, 200 in the fast tests.

None may end the process, hang, take memory out of proportion, run code, reach anything outside, or raise
another error than the reader's documentation says. What was found lies in `findings`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.readers import READERS

ROOT = Path(__file__).parents[2]
FEW, MANY = 200, 10_000
MOST_SWELLING = 1 << 30  # an image may have 64 million pixels


def run(names: list[str], count: int, seed: int, folder: Path) -> list[dict]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    arguments = [",".join(names), str(count), str(seed), str(folder)]
    process = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz_process", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    outcomes = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    assert process.returncode == 0, f"{last_input(folder, names[len(outcomes)])}\n{process.stderr[-3000:]}"
    return outcomes


def last_input(folder: Path, name: str) -> str:
    found = [path for path in (folder / name).glob("input*") if path.is_file()]
    return (
        f"{name} did not survive {found[0].read_bytes()[:2000].hex()}" if found else f"{name} did not start"
    )


def check(outcome: dict, count: int, record_property) -> None:
    assert not outcome["findings"], "\n".join(
        f"{finding['place']}\n{finding['traceback']}\ninput: {finding['input'][:2000]}"
        for finding in outcome["findings"]
    )
    assert outcome["inputs"] >= count
    assert outcome["accepted"] >= 1
    assert outcome["swelled"] < MOST_SWELLING
    record_property("count: inputs fuzzed", outcome["inputs"])


@pytest.mark.parametrize("part", [0, 1])
def test_a_few_inputs_to_every_reader(part, tmp_path, record_property):
    for outcome in run(sorted(READERS)[part::2], FEW, part, tmp_path):
        check(outcome, FEW, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READERS))
def test_ten_thousand_inputs(name, tmp_path, record_property):
    check(run([name], MANY, 1, tmp_path)[0], MANY, record_property)
