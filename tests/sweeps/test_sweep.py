"""`rfd sweep`: cells, processes, tables. Most commands are those of a stand-in for `rfd`."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from rfd_tf import cli
from rfd_tf.runs.sweep import SweepStopped, make_plan, run_plan, write_tables
from tests.training.processes import ROOT

# Stands in for `rfd`: writes what it was called with, and a result of top-1 = its number / 100.
STAND_IN = """
import json, os, sys, time
from pathlib import Path
verb, folder, number = sys.argv[1:4]
print(f"{verb} in {folder}", flush=True)
if verb == "fail":
    sys.exit(3)
if verb == "wait":
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    Path(f"{folder}.waits").write_text(str(os.getpid()))
    time.sleep(600)
Path(folder).mkdir(parents=True, exist_ok=True)
with open(Path(folder) / "calls.txt", "a") as file:
    file.write(f"{verb}\\n")
figures = {"top1": int(number) / 100, "top5": None, "balanced_accuracy": 0.5,
           "per_class": [0.25, 0.75],
           "shot_groups": {"many": 0.75, "few": None}, "confusion": [[1, 3], [1, 3]], "extra": {}}
result = {"format": 1, "protocol": "classify", "model": "m", "command": "c",
          "figures": {"features": figures}, "class_names": ["a", "b"], "class_counts": [200, 30],
          "test_images": 8, "settings": {}, "seconds": 1.0,
          "machine": {}, "versions": {}, "date": "2026-01-01"}
(Path(folder) / "evaluation.json").write_text(json.dumps(result))
"""
PROGRAM = (sys.executable, "-c", STAND_IN)


def never():
    return None


def sweep_config(seeds=(0, 1), **variants):
    return ConfigDict({"kind": "sweep", "seeds": seeds, "base": 40, "variants": variants})


def run(cells, **options):
    lines = []
    arguments = {"jobs": 2, "job_memory": 0.0, "stop_asked": never, "program": PROGRAM} | options
    return run_plan(cells, report=lines.append, **arguments), lines


def calls(cell):
    return (cell.folder / "calls.txt").read_text().split()


def test_plan(tmp_path):
    cells = make_plan(
        sweep_config(a=("train --x='1 2' --seed={seed} --to={dir}", "look {base}"), b=("go",)), tmp_path
    )
    assert [(cell.variant, cell.seed) for cell in cells] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    folder = tmp_path / "a" / "seed-1"
    assert cells[2].folder == folder
    assert cells[2].commands == (("train", "--x=1 2", "--seed=1", f"--to={folder}"), ("look", "40"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (sweep_config(()), "`seeds`"),
        (sweep_config((1, 1), a=("go",)), "`seeds`"),
        (sweep_config(), "`variants` is empty"),
        (sweep_config(a="train"), "tuple of command lines"),
        (sweep_config(a=()), "tuple of command lines"),
        (sweep_config(a=("train {nothing}",)), "{nothing}, which is not a field"),
        (sweep_config(a=("train 'open",)), "unreadable"),
        (sweep_config(**{"a/b": ("train",)}), "folder"),
    ],
)
def test_bad_plans(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_plan(config, tmp_path)


def test_runs_everything_once_and_tabulates(tmp_path):
    config = sweep_config((3, 5, 9), a=("train {dir} 4{seed}", "again {dir} 5{seed}"), b=("train {dir} 60",))
    cells = make_plan(config, tmp_path)
    failed, lines = run(cells)
    assert not failed
    assert lines[0] == "0 of 6 done"
    assert lines[-1].endswith("(6 of 6)")
    assert calls(cells[0]) == ["train", "again"]
    assert "again in" in (tmp_path / "a" / "seed-3.log-2.txt").read_text()
    failed, lines = run(cells)
    assert lines == ["6 of 6 done"]
    assert calls(cells[0]) == ["train", "again"]

    markdown = write_tables(cells, tmp_path)
    assert (tmp_path / "table.md").read_text() == markdown
    top1 = np.array([53.0, 55.0, 59.0])
    assert f"| a | {top1.mean():.1f} ± {top1.std(ddof=1):.1f} | 50.0 ± 0.0 | 75.0 ± 0.0 | 3 |" in markdown
    assert "| b | 60.0 ± 0.0 |" in markdown
    assert f"    rfd train {tmp_path}/b/seed-9 60\n" in markdown
    with open(tmp_path / "raw.csv", newline="") as file:
        raw = list(csv.DictReader(file))
    found = [float(row["value"]) for row in raw if (row["variant"], row["measure"]) == ("a", "top-1")]
    assert found == top1.tolist()
    with open(tmp_path / "table.csv", newline="") as file:
        rows = {(row["variant"], row["measure"]): row for row in csv.DictReader(file)}
    assert rows["a", "top-1"]["mean"] == f"{top1.mean():.2f}"
    assert rows["a", "top-1"]["standard deviation"] == f"{top1.std(ddof=1):.2f}"


def test_a_failure_is_named_and_others_go_on(tmp_path):
    config = sweep_config(
        (0,), bad=("train {dir} 1", "fail {dir} 1", "train {dir} 1"), good=("train {dir} 2",)
    )
    cells = make_plan(config, tmp_path)
    failed, _ = run(cells)
    assert failed == {cells[0]: tmp_path / "bad" / "seed-0.log-2.txt"}
    assert "fail in" in failed[cells[0]].read_text()
    assert calls(cells[1]) == ["train"]
    failed, _ = run(cells)  # the first command is not run again
    assert calls(cells[0]) == ["train"]


def test_other_commands_in_a_folder_are_refused(tmp_path):
    run(make_plan(sweep_config((0,), a=("train {dir} 1",)), tmp_path))
    with pytest.raises(ValueError, match="what another command made: rfd train "):
        run(make_plan(sweep_config((0,), a=("train {dir} 2",)), tmp_path))
    # One more command at the end is not another.
    longer = make_plan(sweep_config((0,), a=("train {dir} 1", "again {dir} 3")), tmp_path)
    assert run(longer)[1][-1].endswith("(1 of 1)")


@pytest.mark.parametrize(("jobs", "job_memory", "together"), [(1, 0.0, 1), (3, 0.0, 3), (3, 1e6, 1)])
def test_as_many_at_a_time_as_jobs_and_memory_allow(jobs, job_memory, together, tmp_path):
    cells = make_plan(sweep_config((0, 1, 2), a=("wait {dir} 0",)), tmp_path)
    polls = []

    def stop_asked():
        polls.append(len(list(tmp_path.glob("a/*.waits"))))
        return signal.SIGTERM if polls[-1] >= together and polls.count(polls[-1]) > 5 else None

    with pytest.raises(SweepStopped, match="SIGTERM"):
        run(cells, jobs=jobs, job_memory=job_memory, stop_asked=stop_asked)
    waited = [int(path.read_text()) for path in tmp_path.glob("a/*.waits")]
    assert len(waited) == together
    for pid in waited:  # none is left behind
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


ALONE = """
import sys
from pathlib import Path
from tests.sweeps.test_sweep import PROGRAM, make_plan, run_plan, sweep_config
cells = make_plan(sweep_config((0,), a=("wait {dir} 0",)), Path(sys.argv[1]))
run_plan(cells, 1, 0.0, lambda: None, program=PROGRAM)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's signal at a parent's death")
def test_a_killed_sweep_leaves_no_command_behind(tmp_path):
    """It would hold its folder, and the sweep started again would fail there."""
    process = subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 300
    while not (waits := list(tmp_path.glob("a/*.waits"))) or not waits[0].read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    while _runs(int(waits[0].read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    """An ended process whose parent does not look after it counts as ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


TINY = """
from ml_collections import ConfigDict

def get_config():
    train = (
        "train --config=digits_lt --workdir={dir} --config.seed={seed} --config.epochs={epochs} "
        "--config.batch_size=64 --config.backbone.name=resnet8 --config.backbone.width=4 "
        "--config.backbone.dense_width=16 --config.preprocessing.image_size=16 "
        "--config.preprocessing.resize=16 --config.optimizer.milestones='((1,0.01),)' "
        "--config.tensorboard=False --config.checkpoint_steps=0"
    )
    knn = (
        "evaluate --model={dir} --protocol=knn --config=evaluate_folder --config.data.source=digits "
        "--config.validation.source=digits --config.validation.split=validation"
    )
    return ConfigDict({"kind": "sweep", "seeds": (0,), "epochs": 50, "variants": {"rfd": (train, knn)}})
"""


def test_real_commands_are_stopped_and_continue(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    arguments = [sys.executable, "-m", "rfd_tf.cli", "sweep", f"--config={tmp_path / 'tiny.py'}"]
    arguments.append(f"--workdir={tmp_path / 'sweep'}")
    folder = tmp_path / "sweep" / "rfd" / "seed-0"
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(folder.glob("checkpoints/*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=300)[1].count("The same command continues.") == 1
    assert process.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "sweep" / "table.md").exists()

    done = json.loads((folder / "config.json").read_text())["epochs"]
    assert done == 50
    assert not (folder / "backbone.keras").exists()
    log = (folder.parent / "seed-0.log-1.txt").read_text()
    assert "The same command continues." in log


def test_bad_flags(capsys):
    assert cli.main(["rfd", "sweep", "--config=digits_lt", "--workdir=w"]) == 2
    assert "a config of `rfd train`" in capsys.readouterr().err
    assert cli.main(["rfd", "sweep", "--config=long_tail_losses"]) == 2
    assert "--workdir is needed" in capsys.readouterr().err


def test_packaged_config_makes_commands(tmp_path):
    from rfd_tf.configs.sweep.long_tail_losses import get_config

    cells = make_plan(get_config(), tmp_path)
    assert len(cells) == 12
    assert sum("--config.classifier.losses=('ldam_drw',)" in cell.commands[0] for cell in cells) == 3


def test_packaged_pretraining_measures_every_start_alike(tmp_path):
    from rfd_tf.configs.sweep.long_tail_pretraining import get_config

    cells = make_plan(get_config(), tmp_path)
    assert {cell.variant for cell in cells} == {"untrained", "rotnet", "instance", "rfd", "rfd_ldam"}

    def measured(cell):
        return [[word.replace(str(cell.folder), "") for word in line] for line in cell.commands[1:]]

    first = [cell for cell in cells if cell.seed == 0]
    assert len({str(measured(cell)) for cell in first}) == 1
    assert len({str(cell.commands[0]) for cell in first}) == 5


def test_packaged_rotation_heads_differ_in_the_head_alone(tmp_path):
    from rfd_tf.configs.sweep.rotation_heads import get_config

    first = [cell for cell in make_plan(get_config(), tmp_path) if cell.seed == 0]
    trained = {cell.variant: {*cell.commands[0]} for cell in first}
    forms = [trained[form] for form in ("none", "rotation", "group", "image")]
    common = set.intersection(*forms)
    assert all(len(form - common) == 2 for form in forms)  # the folder and ldam.margins
    assert "--config.ldam.scale=10.0" in common
    assert "--config.method.rotation_head=ldam" in trained["ldam"] & common
