"""`rfd report` on the folder of a run: what it computes, what it leaves out, the page in a browser."""

import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf import cli
from rfd_tf.report.collect import collect_report
from tests.report.looked_at import look_at
from tests.report.made_up import save_made_up
from tests.report.runs import COUNTS, VALIDATION, write_images, write_run

NAMES = sorted(COUNTS)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", COUNTS)
    write_images(root / "val", dict.fromkeys(COUNTS, VALIDATION), seed=1)
    return root


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_run(folder, images / "train", images / "val")
    return folder


@pytest.fixture(scope="module")
def report(run):
    return collect_report(run)


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def prepared(paths):
    """Inputs of the network by PIL and NumPy alone."""
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths]).astype("float32") / 255
    return (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])


def test_facts_and_key_figures(report, run):
    assert report.facts.name == "run"
    assert [data.images for data in report.facts.data] == [sum(COUNTS.values()), 3 * VALIDATION]
    assert (report.facts.feature, report.facts.feature_width) == ("pool", 16)
    with open(run / "history.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    found = [figure.value for figure in report.key_figures]
    assert found[0] == float(last["val_rotation_accuracy"])
    assert found[1] == float(last["val_invariant_rotation_accuracy"])
    assert found[2] == report.classifier.figures.top1
    assert 0 <= report.key_figures[2].control <= 1
    assert found[3] is None
    assert report.notes == {}


def test_neighbours_are_those_of_brute_force(report, run, images):
    backbone = keras.saving.load_model(run / "backbone.keras")

    def features(paths):
        found = np.asarray(backbone(prepared(paths), training=False)["pool"])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    training = sorted(map(str, (images / "train").glob("*/*.png")))
    section = report.neighbours
    assert section.searched == len(training)
    assert [row.group for row in section.rows] == ["many"] * 4 + ["medium"] * 4 + ["few"] * 4
    queries = [row.query.name for row in section.rows]
    assert len(set(queries)) == len(queries)
    cosines = features(queries) @ features(training).T
    for row, similar in zip(section.rows, cosines, strict=True):
        of_class = COUNTS[row.query.label]
        assert row.group == ("many" if of_class > 100 else "medium" if of_class >= 20 else "few")
        expected = np.sort(similar)[::-1][:8]
        np.testing.assert_allclose([n.similarity for n in row.neighbours], expected, atol=1e-4)
        for neighbour in row.neighbours:
            np.testing.assert_allclose(
                neighbour.similarity, similar[training.index(neighbour.card.name)], atol=1e-4
            )
            assert neighbour.card.label == Path(neighbour.card.name).parent.name
            assert neighbour.right == (neighbour.card.label == row.query.label)


def test_rotations_are_those_of_turned_images(report, run):
    backbone = keras.saving.load_model(run / "backbone.keras")
    heads = keras.saving.load_model(run / "heads.keras")
    section = report.rotations
    assert (section.images, section.source) == (3 * VALIDATION, "validation")
    assert section.confusion.sum(axis=1).tolist() == [section.images] * 4
    views = [view for four in section.samples for view in four]
    assert [view.turned for view in views] == [0, 1, 2, 3] * len(section.samples)
    shown = [*views, *section.mistakes]
    for view in shown:
        upright = np.asarray(Image.open(view.card.name))
        np.testing.assert_array_equal(view.card.pixels, np.rot90(upright, view.turned))
    turned = [np.rot90(prepared([view.card.name])[0], view.turned) for view in shown]
    features = backbone(np.stack(turned), training=False)["fc_block"]
    expected = np.asarray(heads(features)["rotation_probabilities"])
    np.testing.assert_allclose([view.probabilities for view in shown], expected, atol=1e-4)
    assert section.mistakes
    assert not any(view.right for view in section.mistakes)
    sureness = [view.probabilities.max() for view in section.mistakes]
    assert sureness == sorted(sureness, reverse=True)
    images = [view.card.name for view in section.mistakes]
    assert len(set(images)) == len(images)


def test_map_shows_every_validation_image(report):
    section = report.feature_map
    assert section.points.shape == (3 * VALIDATION, 2)
    assert section.points.min() == 0
    assert section.points.max() == 1
    assert section.labels.tolist() == np.repeat(np.arange(3), VALIDATION).tolist()
    assert "t-SNE" in section.method


def test_quick_knn_is_shown_until_there_are_evaluations(report, copy):
    quick = report.classifier
    assert quick.class_counts == [COUNTS[name] for name in NAMES]
    assert np.sum(quick.figures.confusion, axis=1).tolist() == [VALIDATION] * 3
    counts = list(quick.class_counts)
    save_made_up(copy, "knn", "knn", ["features, k=20"], NAMES, counts, 0.4)
    save_made_up(copy, "rotation", "rotation", ["own head"], ["0", "90", "180", "270"], [9] * 4, 0.9)
    linear = save_made_up(copy, "linear", "linear", ["block1", "pool"], NAMES, counts, 0.6)
    # What is recorded of the model decides, and no folder's name.
    probes = ("linear", ["block1", "pool"], NAMES, counts)
    save_made_up(copy, "quality-control", *probes, 0.3, model="/runs/control-of-quality")
    control = save_made_up(copy, "other", *probes, 0.9, model="/runs/a/untrained control")
    (copy / "evaluations" / "broken").mkdir()
    (copy / "evaluations" / "broken" / "evaluation.json").write_text('{"format": 1}')
    again = collect_report(copy, max_images=10)
    assert sorted(again.evaluations) == ["knn", "linear", "other", "quality-control", "rotation"]
    assert "broken" in again.notes["evaluations"][0]
    best = max(linear.figures, key=lambda name: linear.figures[name].top1)
    assert again.classifier.figures == linear.figures[best]
    assert again.key_figures[3].value == linear.figures[best].top1
    assert again.key_figures[3].control == control.figures[best].top1
    assert again.key_figures[2].value == again.evaluations["knn"].figures["features, k=20"].top1
    assert len(again.sample) == 10


def test_page_of_a_run_in_a_browser(run, chromium, tmp_path, capsys):
    out = tmp_path / "deep" / "page.html"
    assert cli.main(["rfd", "report", f"--workdir={run}", f"--out={out}", "--nocontrol"]) == 0
    assert f"Report: {out}" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    for width in (1280, 360):
        look_at(chromium, out, width)


def test_unlabelled_images_without_validation(images, tmp_path, capsys):
    write_run(tmp_path / "run", images / "val", source="flat_folder")
    shutil.rmtree(tmp_path / "run" / "cache", ignore_errors=True)
    report = collect_report(tmp_path / "run", max_images=8)
    assert report.classifier is None
    assert "labelled" in report.notes["classes"][0]
    assert [row.group for row in report.neighbours.rows] == [None] * 8
    for row in report.neighbours.rows:
        names = [neighbour.card.name for neighbour in row.neighbours]
        assert len(names) == 7  # the seven others
        assert row.query.name not in names
        assert {neighbour.right for neighbour in row.neighbours} == {None}
    assert report.feature_map.labels is None
    assert report.rotations.source == "training"
    assert cli.main(["rfd", "report", f"--workdir={tmp_path / 'run'}", "--max_images=5"]) == 0
    assert "labelled" in capsys.readouterr().out


def test_images_that_have_moved_are_noted(copy, tmp_path, capsys, chromium):
    change_config(copy, "data", root=str(tmp_path / "gone"))
    save_made_up(copy, "linear", "linear", ["block1"], NAMES, [110, 30, 5])
    assert cli.main(["rfd", "report", f"--workdir={copy}", "--projector"]) == 0
    said = capsys.readouterr().out
    assert f"No folder of images at {tmp_path / 'gone'}" in said
    assert "No projector files" in said
    page = (copy / "report.html").read_text()
    assert str(tmp_path / "gone") in page
    assert page.count("needs the run&#39;s images") == 3
    look_at(chromium, copy / "report.html", 360)


def test_validation_images_alone_have_moved(copy, tmp_path):
    change_config(copy, "validation", root=str(tmp_path / "gone"))
    report = collect_report(copy, max_images=12, control=False)
    assert "The validation images cannot be opened" in report.notes["images"][0]
    assert report.sample.source == "training"
    assert report.rotations.source == "training"
    assert report.classifier.test_images == 12  # each by the others


def test_missing_parts_of_the_run_are_noted(copy):
    (copy / "heads.keras").unlink()
    (copy / "history.csv").unlink()
    report = collect_report(copy, max_images=6, control=False)
    assert report.rotations is None
    assert "heads.keras" in report.notes["rotations"][0]
    assert report.history is None
    assert "history.csv" in report.notes["curves"][0]
    assert report.key_figures[0].value is None


def test_images_that_cannot_be_read_are_left_out_by_name(copy, images, tmp_path):
    moved = shutil.copytree(images / "val", tmp_path / "val")
    broken = moved / "white" / "003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    change_config(copy, "validation", root=str(moved), on_error="raise")
    report = collect_report(copy, max_images=100, control=False)
    assert "1 validation images cannot be read" in report.notes["images"][0]
    assert str(broken) in report.notes["images"][0]
    assert len(report.sample) == 3 * VALIDATION - 1


def test_folders_that_are_no_finished_run(copy, tmp_path, capsys):
    def refused(folder, *flags):
        assert cli.main(["rfd", "report", f"--workdir={folder}", *flags]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("rfd report: ")
        return error

    assert "holds no config.json" in refused(tmp_path)
    assert "is a folder" in refused(copy, f"--out={tmp_path}")
    (copy / "backbone.keras").rename(tmp_path / "backbone.keras")
    assert "has not finished" in refused(copy)
    (copy / "config.json").write_text('{"epochs": 3}')
    assert "not a config of a run" in refused(copy)
    (copy / "config.json").write_text("{")
    assert "not a config of a run" in refused(copy)
    assert not (copy / "report.html").exists()
    assert cli.main(["rfd", "report"]) == 2
    assert cli.main(["rfd", "report", f"--workdir={copy}", "--max_images=0"]) == 2


def change_config(run, part, **fields):
    path = run / "config.json"
    config = json.loads(path.read_text())
    config[part].update(fields)
    path.write_text(json.dumps(config))
