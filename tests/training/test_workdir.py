import json

import pytest

from rfd_tf.training.workdir import WorkdirError, open_workdir, trim_history

CONFIG = {"seed": 0, "mean": (0.1, 0.2), "data": {"root": "a", "split": "train"}}


def test_the_same_config_opens_the_folder_again(tmp_path):
    workdir = open_workdir(tmp_path / "run", CONFIG)
    assert json.loads((workdir / "config.json").read_text())["data"]["root"] == "a"
    assert open_workdir(tmp_path / "run", CONFIG) == workdir


def test_every_differing_field_is_named(tmp_path):
    open_workdir(tmp_path / "run", CONFIG)
    other = {"seed": 1, "mean": (0.1, 0.2), "data": {"root": "b"}, "new": True}
    with pytest.raises(WorkdirError) as error:
        open_workdir(tmp_path / "run", other)
    for part in (
        "data.root: 'a' there, 'b' now",
        "data.split: 'train' there, absent now",
        "new: absent",
        "seed: 0",
    ):
        assert part in str(error.value)
    assert "mean" not in str(error.value)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(WorkdirError, match="not empty"):
        open_workdir(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("epochs", "text", "kept"),
    [
        (2, "epoch,loss\n0,1.5\n1,1.2\n2,1.1\n", "epoch,loss\n0,1.5\n1,1.2\n"),
        (9, "epoch,loss\n0,1.5\n1,1.", "epoch,loss\n0,1.5\n"),
        (9, "epoch,loss\n0,1.5\n1\n", "epoch,loss\n0,1.5\n"),
        (0, "epoch,loss\n0,1.5\n", None),
        (9, "epoch,lo", None),
        (9, "", None),
    ],
)
def test_history_keeps_whole_rows_of_finished_epochs(tmp_path, epochs, text, kept):
    path = tmp_path / "history.csv"
    path.write_text(text)
    trim_history(path, epochs)
    assert (path.read_text() if path.exists() else None) == kept
