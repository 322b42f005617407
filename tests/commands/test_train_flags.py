"""`rfd train`: callbacks of one's own, the list of fields, nearest names, and one line an epoch."""

import csv
import math
import re
import sys

import pytest

from rfd_tf import cli
from rfd_tf.callbacks import epoch_line
from rfd_tf.cli.command_line import FIELD_FILES, configs_folder, packaged_configs
from rfd_tf.cli.fields import field_names, field_notes
from tests.commands.test_packaged_configs import config_of
from tests.training.processes import train_here

TRACKING = """
import keras

class Tracker(keras.callbacks.Callback):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        with open(self.path, "a") as file:
            file.write(f"{epoch},{sorted(logs)}\\n")

def callbacks(config, workdir):
    (workdir / "tracked.txt").write_text(f"{config.kind} {config.epochs}\\n")
    return [Tracker(workdir / "tracked.txt")]

one = lambda config, workdir: Tracker(workdir / "one.txt")
wrong = lambda config, workdir: [3]
nothing = 4

def failing(config, workdir):
    raise KeyError("API key")
"""


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    """A module `tracking` in the current folder, which is not on the path."""
    (tmp_path / "tracking.py").write_text(TRACKING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("tracking", None)


def test_callbacks_of_ones_own_see_every_epoch_and_all_that_the_history_has(tracking, capsys):
    assert train_here("run", "--callbacks=tracking:callbacks,tracking:one") == 0
    header, *epochs = (tracking / "run" / "tracked.txt").read_text().splitlines()
    assert header == "pretrain 2"
    assert [line.split(",")[0] for line in epochs] == ["0", "1"]
    assert len((tracking / "run" / "one.txt").read_text().splitlines()) == 2
    with open(tracking / "run" / "history.csv") as file:
        columns = next(csv.reader(file))
    assert epochs[0].split(",", 1)[1] == str(sorted(set(columns) - {"epoch"}))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all(len(line) < 80 and "rotation " in line and "knn " in line for line in lines)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tracking", "must be 'module:factory'. Received: 'tracking'"),
        ("nowhere_at_all:callbacks", "No module named 'nowhere_at_all'"),
        ("tracking:callback", "'tracking' has no 'callback'; did you mean 'callbacks'?"),
        ("tracking:nothing", "'tracking:nothing' is not callable"),
        ("tracking:wrong", "'tracking:wrong' must return Keras callbacks. Received: [3]"),
        ("tracking:failing", "'tracking:failing' failed: KeyError: 'API key'"),
    ],
)
def test_callbacks_that_cannot_be_are_told_before_work_begins(tracking, capsys, value, message):
    assert train_here("run", f"--callbacks={value}") == 1
    error = capsys.readouterr().err
    assert message in error
    assert "`callbacks`" in error
    assert "Traceback" not in error
    assert not (tracking / "run" / "config.json").exists()


@pytest.mark.parametrize("kind", ["pretrain", "classify", "evaluate", "detect"])
def test_help_lists_every_field_of_the_chosen_config(kind, capsys):
    command = {"evaluate": "evaluate", "detect": "detect"}.get(kind, "train")
    for name, path in packaged_configs(kind).items():
        assert cli.main(["rfd", command, "--help", f"--config={name}"]) == 0
        text = capsys.readouterr().out
        for field in field_names(config_of(path)):
            assert re.search(rf"^  --config\.{re.escape(field)}=", text, re.MULTILINE), field
        assert max(map(len, text.partition("\nFields")[2].splitlines())) <= 110


def test_help_has_values_and_comments(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["rfd", "train", "--help", "--config=digits_lt"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.partition("\nFields")[2].splitlines())) <= 80
    text = " ".join(text.split())
    assert "--config.batch_size=32 images a step over all replicas; four views each" in text
    assert "--config.data.long_tail.profile=exp" in text
    assert 'or "softmax", which needs no normalizer' in text
    assert cli.main(["rfd", "train", "--help"]) == 0
    assert "--config.batch_size=192" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["pretrain", "classify", "evaluate", "detect"])
def test_most_fields_of_the_base_configs_have_a_comment(kind):
    """What says nothing is what its name says."""
    path = next(iter(packaged_configs(kind).values()))
    files = [configs_folder() / file for file in FIELD_FILES[kind]]
    names, notes = field_names(config_of(path)), field_notes(files, path)
    assert len([name for name in names if notes.get(name)]) > 0.5 * len(names)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.batch_sise=3", "no field 'batch_sise'; did you mean 'batch_size'?"),
        ("--config.data.rot=3", "no field 'data.rot'; did you mean 'data.root'?"),
        ("--config.image_size=3", "no field 'image_size'; did you mean 'preprocessing.image_size'?"),
        ("--config.dat.root=3", "no field 'dat.root'; did you mean 'data.root'?"),
        ("--config.batch_size.x=3", "no field 'batch_size.x'; did you mean 'batch_size'?"),
        ("--config.qqqqqq=3", "no field 'qqqqqq'. `rfd train --help --config="),
    ],
)
def test_an_unknown_field_suggests_the_nearest(override, message, capsys):
    for given in ([override], override.split("=")):
        assert cli.main(["rfd", "train", "--config=digits_lt", "--workdir=/tmp/x", *given]) == 2
        assert message in capsys.readouterr().err


def test_the_line_of_an_epoch_fits_a_terminal():
    logs = {
        "instance_loss": 4.26,
        "loss": 5.4431,
        "rotation_accuracy": 0.4779,
        "val_loss": 4.0151,
        "val_rotation_accuracy": 0.2736,
        "knn_accuracy": 0.6989,
    }
    line = "Epoch 1/2 10s  loss 5.443 (val 4.015)  rotation 47.8% (27.4%)  knn 69.9%"
    assert epoch_line(0, 2, logs, 10.2) == line
    assert epoch_line(0, 2, {"loss": 1.0, "knn_accuracy": math.nan}, 1.0) == "Epoch 1/2 1s  loss 1"
    assert epoch_line(119, 245, logs, 754.2).startswith("Epoch 120/245 12m34s  loss ")
    assert len(epoch_line(119, 245, logs, 754.2)) < 80
    assert epoch_line(0, 1, {"conv1_top1": 0.5, "conv1_loss": 1e-5, "loss": 1.0}, 7200.0) == (
        "Epoch 1/1 2h00m  loss 1  conv1_top1 50.0%  conv1_loss 1e-05"
    )
    many = {f"a_probe_of_a_long_name_{i}_loss": 1.0 for i in range(99)}
    assert len(epoch_line(0, 1, many, 1.0)) < 80
