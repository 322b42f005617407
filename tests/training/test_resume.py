"""Killed or stopped at any moment, a run goes on and ends as if nothing had happened, bit for bit."""

import json
import re
import signal

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf import cli, data
from rfd_tf.features import open_feature_model
from tests.training import processes

# Rotation LDAM + DRW and weights from a probability file, so that their state is checked too.
FEATURES = (
    "--config.method.rotation_head=ldam",
    "--config.ldam.margins=group",
    "--config.ldam.start_epoch=1",
)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    path = tmp_path_factory.mktemp("probabilities") / "prob.dat"
    count = len(data.long_tailed(data.digits("train"), 10.0, "exp", 0))
    data.save_rotation_probabilities(path, np.random.default_rng(0).uniform(size=(count, 4)))
    weights = (
        f"--config.rotation_probabilities.path={path}",
        "--config.rotation_probabilities.start_epoch=1",
    )
    return (*FEATURES, *weights)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, overrides):
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    processes.run(workdir, *overrides)
    return workdir


def test_a_run_leaves_what_is_promised(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert {"backbone.keras", "heads.keras", "checkpoints", "config.json", "history.csv"} <= names
    assert not any("partial" in name for name in names)
    backbone = keras.saving.load_model(uninterrupted / "backbone.keras")
    assert list(backbone.output) == ["block1", "block2", "block3", "pool", "fc_block"]
    features = open_feature_model(uninterrupted)(np.zeros((2, 16, 16, 3), "float32"))
    assert features["rotation"].shape == features["invariant"].shape == (2, 16)
    np.testing.assert_allclose(features["rotation_probabilities"].sum(axis=1), 1, rtol=1e-5)
    config = json.loads((uninterrupted / "config.json").read_text())
    assert config["batch_size"] == 32
    header, *rows = (uninterrupted / "history.csv").read_text().splitlines()
    assert len(rows) == 2
    assert {"rotation_loss", "val_instance_loss", "knn_accuracy", "invariant_rotation_accuracy"} <= set(
        header.split(",")
    )


def test_sigkill_in_the_middle_of_both_epochs(uninterrupted, overrides, tmp_path):
    workdir = tmp_path / "run"
    last = processes.latest_step(uninterrupted)
    for step in (3, last // 2 + 3):
        status, output = processes.stop_at(processes.start(workdir, *overrides), workdir, step)
        assert status == -signal.SIGKILL, output
    output = processes.run(workdir, *overrides)
    assert "Continuing after step" in output
    processes.assert_same_end(uninterrupted, workdir)


def test_sigterm_saves_and_exits_cleanly(uninterrupted, overrides, tmp_path):
    workdir = tmp_path / "run"
    options = (*overrides, "--config.checkpoint_steps=4")
    status, output = processes.stop_at(processes.start(workdir, *options), workdir, 4, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM, output
    assert "Stopped by SIGTERM: saved after step" in output
    assert "Traceback" not in output
    stopped_at = processes.latest_step(workdir)
    assert f"after step {stopped_at}" in output
    processes.run(workdir, *options)
    last = processes.latest_step(uninterrupted)
    expected, found = processes.state(uninterrupted, last), processes.state(workdir, last)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_summary_prints_a_table_and_draws_a_image(uninterrupted, capsys):
    assert cli.main(["rfd", "report", f"--workdir={uninterrupted}", "--summary"]) == 0
    printed = capsys.readouterr().out
    rows = (uninterrupted / "history.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert f"{float(last['val_rotation_accuracy']):.1%}" in printed
    assert f"{float(last['val_invariant_rotation_accuracy']):.1%}" in printed
    for name in ("kNN", "linear"):
        trained, control = re.search(rf"{name} +([\d.]+)% +([\d.]+)%", printed).groups()
        assert 0 < float(control) < 100
        assert 0 < float(trained) < 100
    assert "rotation-ambiguous" in printed
    image = Image.open(uninterrupted / "summary.png")
    assert image.width > 1000
    assert len(set(image.convert("L").resize((64, 32)).getdata())) > 10  # not an empty sheet


def test_a_finished_run_is_left_as_it_is(uninterrupted, overrides):
    before = (uninterrupted / "history.csv").read_text(), processes.steps(uninterrupted)
    processes.run(uninterrupted, *overrides)
    assert ((uninterrupted / "history.csv").read_text(), processes.steps(uninterrupted)) == before


def test_a_workdir_of_another_config_is_refused_and_named(uninterrupted, overrides):
    status, output = processes.finish(processes.start(uninterrupted, *overrides, "--config.seed=3"))
    assert status == 1
    assert "holds a run of another config. seed: 0 there, 3 now" in output
    assert "Traceback" not in output
