import json
import os

import pytest

from rfd_tf.files import atomic_path
from rfd_tf.runs.provenance import stopwatch
from rfd_tf.runs.workdir import WorkdirError, check_workdir, claim_workdir, lock_workdir, trim_history

CONFIG = {"seed": 0, "mean": (0.1, 0.2), "data": {"root": "a", "split": "train"}}


@pytest.fixture
def workdir(tmp_path):
    with lock_workdir(tmp_path / "run"):
        claim_workdir(tmp_path / "run", CONFIG)
    return tmp_path / "run"


def test_the_same_config_opens_the_folder_again(workdir):
    assert json.loads((workdir / "config.json").read_text())["data"]["root"] == "a"
    check_workdir(workdir, CONFIG)


def test_a_start_that_failed_leaves_the_folder_free(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "worker-1").mkdir()
    with lock_workdir(tmp_path):
        pass
    check_workdir(tmp_path, CONFIG)


def test_two_processes_cannot_share_a_folder(tmp_path):
    with lock_workdir(tmp_path), pytest.raises(WorkdirError, match="Another process"), lock_workdir(tmp_path):
        pass


@pytest.mark.parametrize("name", ["config.json", "history.csv", "backbone.keras", "heads.keras"])
def test_what_a_killed_run_left_half_written_is_removed(tmp_path, name):
    (tmp_path / "report.html").touch()
    others = tmp_path / ".report.8.partial.html"  # written without the lock, perhaps just now
    others.touch()
    with atomic_path(tmp_path / name) as temporary:
        temporary.touch()
        left = tmp_path / temporary.name.replace(str(os.getpid()), "7")
        left.touch()
    with lock_workdir(tmp_path):
        assert not left.exists()
    assert others.exists()


def test_what_a_killed_run_left_of_its_seconds_is_removed(tmp_path):
    (tmp_path / "seconds.txt").write_text("5.0")
    left = tmp_path / ".seconds.7.partial.txt"
    left.touch()
    with stopwatch(tmp_path / "seconds.txt") as seconds:
        assert seconds() >= 5
        assert not left.exists()


def test_every_differing_field_is_named(workdir):
    other = {"seed": 1, "mean": (0.1, 0.2), "data": {"root": "b"}, "new": True}
    with pytest.raises(WorkdirError) as error:
        check_workdir(workdir, other)
    for part in (
        "data.root: 'a' there, 'b' now",
        "data.split: 'train' there, absent now",
        "new: absent",
        "seed: 0",
    ):
        assert part in str(error.value)
    assert "mean" not in str(error.value)


def test_a_run_from_before_a_field_goes_on_with_its_default(workdir):
    augmentation = {"color_jitter": (), "color_jitter_probability": 1.0, "grayscale": 0.0, "crops": 1}
    augmentation |= {"augment": (), "rand_augment_ops": 2, "rand_augment_magnitude": 0.5, "mixup_alpha": 0.2}
    check_workdir(workdir, CONFIG | augmentation)
    for name, value in (("crops", 2), ("grayscale", 0.2), ("color_jitter_probability", 0.8)):
        with pytest.raises(WorkdirError, match=f"{name}: absent there, {value} now"):
            check_workdir(workdir, CONFIG | augmentation | {name: value})


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(WorkdirError, match=r"thesis\.tex"):
        check_workdir(tmp_path, CONFIG)


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
