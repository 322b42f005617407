"""Inputs that Atheris finds by watching the branches of the readers that are written in Python.

The rest as in `test_fuzzing`; what was found lies in `test_findings`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COUNT = 20_000
NAMES = (
    *("bad_pictures_json", "caffemodel", "evaluation_json", "history_csv", "http_head", "image_list", "mat"),
    *("mega_answer", "mega_link", "model_info", "image_header", "prob_dat", "run_config"),
    *("serving_address", "torch_legacy", "torch_zip", "voc_list", "voc_results", "voc_xml", "zoo_report"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_reach_new_branches(name, tmp_path, record_property):
    pytest.importorskip("atheris", reason="Atheris has no package for this platform")
    process = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz_coverage", name, str(COUNT), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    found = [path.read_bytes()[:2000].hex() for path in tmp_path.iterdir() if path.is_file()]
    assert process.returncode == 0, f"{process.stderr[-3000:]}\ninput: {found}"
    runs, reached = re.search(r"#(\d+)\s+DONE\s+cov: (\d+)", process.stderr).groups()
    assert int(runs) >= COUNT
    assert int(reached) >= 5  # it does see branches
    record_property("count: inputs guided by coverage", int(runs))
