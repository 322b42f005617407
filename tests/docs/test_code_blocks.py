"""Python in the documents runs as it stands.

A document's blocks run in order, in one namespace and one empty folder. What a reader would have (images, a
class of their own) is set up in comments that begin `invisible-code-block: python`. A block that needs the
network, a server or hours stands below `<!-- skip: next "REASON" -->`; it is compiled all the same.
"""

import re
import subprocess
import sys
import unittest

import pytest
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from tests.docs.documents import DOCUMENTS, ROOT, name_of
from zoo import registry

BLOCK = re.compile(r"^(?:```python|<!--+ *invisible-code-block: python)$", re.MULTILINE)
WITH_CODE = [document for document in DOCUMENTS if BLOCK.search(document.read_text(encoding="utf-8"))]
TRAINING_SCRIPT = ROOT / "docs" / "own_training_script.md"


def run_blocks(document) -> list[str]:
    """Run the blocks of a document; the reasons of those that were left out."""
    parsed = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(document)
    reasons, compiled = [], 0
    for example in parsed.examples():
        if isinstance(example.region.evaluator, PythonEvaluator):
            compile(example.parsed, f"{document}:{example.line}", "exec")
            compiled += 1
        try:
            example.evaluate()
        except unittest.SkipTest as skip:
            reasons.append(str(skip))
    assert compiled == len(BLOCK.findall(document.read_text(encoding="utf-8")))
    return reasons


@pytest.mark.parametrize("document", [one for one in WITH_CODE if one != TRAINING_SCRIPT], ids=name_of)
def test_every_block_runs(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))  # what a document registers goes
    reasons = run_blocks(document)
    assert all(len(reason.split()) > 1 for reason in reasons), "a block is left out without a reason"


def test_the_training_script_runs_on_two_replicas(tmp_path):
    """The page as it stands, in a process that sees its CPU as two devices."""
    code = (
        "from rfd_tf.distribution import split_cpu; split_cpu(2);"
        "from tests.docs.test_code_blocks import run_blocks;"
        f"run_blocks(__import__('pathlib').Path({str(TRAINING_SCRIPT)!r}));"
        "import tensorflow as tf; print('devices:', len(tf.config.list_logical_devices('CPU')))"
    )
    environment = {**__import__("os").environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "replicas: 2" in done.stdout
    assert "devices: 2" in done.stdout
