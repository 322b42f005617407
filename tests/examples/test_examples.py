"""The examples run as their users run them, and print and write what they say."""

import json
import os
import re
import subprocess
import sys

import jupytext
import nbclient
import nbformat
import pytest

from tests.docs.documents import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run(script: str, *arguments) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{script}.py", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_page_lists_every_example():
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\(\.\./examples/(\w+\.py)\)", page)) == [script.name for script in SCRIPTS]


def test_ldam_drw(tmp_path):
    printed = run("ldam_drw", f"--out={tmp_path}", "--epochs=10")
    assert "training images by class: [120, 86, " in printed
    table = json.loads((tmp_path / "top1.json").read_text())
    assert list(table) == ["cross-entropy", "ldam-drw"]
    assert list(table["ldam-drw"]) == ["all", "many", "medium", "few"]
    assert table["ldam-drw"]["few"] > table["cross-entropy"]["few"]


def test_there_are_notebooks():
    assert [one.stem for one in NOTEBOOKS] == ["features_in_ten_lines", "ldam_drw"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script_without_outputs(notebook):
    """`make notebooks` writes it."""
    written = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in written["cells"]]
    script = jupytext.read(notebook.with_suffix(".py"), fmt="py:percent")
    assert cells == [(cell.cell_type, cell.source) for cell in script.cells], "run `make notebooks`"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in written["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    opened = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(opened, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in opened.cells for output in cell.get("outputs", ())]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert {"features_in_ten_lines": "untrained: ", "ldam_drw": "ldam-drw  "}[notebook.stem] in printed
    assert any(tmp_path.iterdir())  # the default of `--out` is a folder beside the notebook


@pytest.mark.slow
def test_help():
    for script in SCRIPTS:
        assert "--out" in run(script.stem, "--help")


@pytest.mark.slow
def test_pretrain_own_script(tmp_path):
    printed = run("pretrain_own_script", f"--out={tmp_path}", "--replicas=2")
    assert "replicas: 2" in printed
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert "['pool', 'fc_block']" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"backbone.keras", "heads.keras"}


@pytest.mark.slow
def test_features_in_ten_lines(tmp_path):
    printed = run("features_in_ten_lines", f"--out={tmp_path}", "--epochs=2")
    assert "features: (300, 256)" in printed
    assert len(re.findall(r"(?m)^(?:pretrained|untrained): [\d.]+ % top-1$", printed)) == 2
    assert (tmp_path / "run" / "backbone.keras").is_file()
    assert {path.name for path in (tmp_path / "run" / "evaluations").iterdir()} == {"knn", "knn-control"}


@pytest.mark.slow
def test_finetune_zoo(tmp_path):
    printed = run("finetune_zoo", f"--out={tmp_path}")
    assert len(re.findall(r"(?m)^(?:pretrained|random): [\d.]+ % top-1$", printed)) == 2
    for name in ("pretrained", "random"):
        assert (tmp_path / name / "evaluation.json").is_file()


@pytest.mark.slow
def test_finetune_zoo_from_a_run(tmp_path):
    run("features_in_ten_lines", f"--out={tmp_path}", "--epochs=1")
    printed = run("finetune_zoo", f"--out={tmp_path}", f"--init={tmp_path / 'run'}", "--epochs=1")
    assert len(re.findall(r"(?m)^(?:pretrained|random): [\d.]+ % top-1$", printed)) == 2
    pretrained, random = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("pretrained", "random")
    )
    assert pretrained["init"] == str(tmp_path / "run" / "backbone.keras")
    assert not random["init"]
    for section in ("backbone", "preprocessing"):
        for field in ("name", "width", "features", "feature", "dense_width", "image_size", "resize"):
            assert pretrained[section].get(field) == random[section].get(field), field
    assert random["backbone"]["name"] == "resnet8"


@pytest.mark.slow
def test_export_and_serve(tmp_path):
    pytest.importorskip("onnxruntime")
    printed = run("export_and_serve", f"--out={tmp_path}")
    differences = dict(re.findall(r"(?m)^(\S+): features \(16, 256\), difference (\S+)$", printed))
    assert differences.keys() == {"saved_model/1", "model.onnx"}
    assert all(float(difference) < 1e-4 for difference in differences.values())
    for file in ("compose.yaml", "serving/models.config", "model.onnx", "saved_model/1/saved_model.pb"):
        assert (tmp_path / file).is_file()
