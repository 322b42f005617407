"""`rfd detect` from raw images to average precision."""

import json
import re
import signal

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rfd_tf import cli
from rfd_tf.configs.detect import voc2007
from rfd_tf.data import VocDevkit
from rfd_tf.detection.detector import DetectionOptions, open_detector
from rfd_tf.detection.inputs import read_image
from rfd_tf.detection.proposals import load_proposals
from rfd_tf.detection.voc_detection import detection_options
from rfd_tf.detection.voc_metrics import evaluate_detections, read_voc_results
from rfd_tf.evaluation.results import load_result
from tests.detection import toy
from tests.training import processes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = toy.write_devkit(tmp_path_factory.mktemp("detection"))
    toy.write_network(root / "network.keras")
    return root


@pytest.fixture(scope="module")
def shared(root):
    """What all runs here have in common: the folder of their proposals."""
    return {"proposals__folder": str(root / "proposals")}


@pytest.fixture(scope="module")
def learned(root, shared):
    """A run long enough to find the rectangles."""
    workdir = root / "learned"
    options = {
        "steps": "300",
        "log_steps": "100",
        "optimizer__milestones": "((250,1e-2),(300,1e-3))",
        "detector__dropout": "0.0",
        "deterministic": "False",
    }
    assert cli.main(["rfd", "detect", *toy.arguments(root, workdir, **shared, **options)]) == 0
    return workdir


def test_rectangles_are_found(root, learned):
    result = load_result(learned / "evaluation.json")
    figures = result.figures["Fast R-CNN"]
    assert figures.mean_average_precision["11_point"] > 0.8
    assert figures.mean_average_precision["area"] > 0.8
    present = [
        name
        for name, value in zip(result.class_names, figures.average_precision["area"], strict=True)
        if value
    ]
    assert present == list(toy.CLASSES)
    assert result.test_images == toy.TEST
    history = (learned / "history.csv").read_text().splitlines()
    assert len(history) == 1 + 3


def test_files_say_what_the_figures_say(root, learned):
    """VOC's files, read again and evaluated, give the figures; COCO's has what the saved detector finds."""
    source = VocDevkit(root, "test")
    annotations = dict(zip(source.names, source.annotations, strict=True))
    found = read_voc_results(learned / "results", source.names, source.class_names, "test")
    figures = load_result(learned / "evaluation.json").figures["Fast R-CNN"]
    again = evaluate_detections(found, annotations, source.class_names)
    for rule in ("11_point", "area"):
        assert again.mean_average_precision(rule) == pytest.approx(figures.mean_average_precision[rule])
    coco = json.loads((learned / "results" / "coco.json").read_text())
    detector, (folder,) = open_detector(learned), (root / "proposals").iterdir()
    saved = [
        (int(name), float(score))
        for index, name in enumerate(source.names)
        for score in detector(
            read_image(source, index, True), load_proposals(folder, name)[: toy.MOST]
        ).scores
    ]
    assert [row["image_id"] for row in coco] == [image for image, _ in saved]
    np.testing.assert_allclose([row["score"] for row in coco], [score for _, score in saved], rtol=1e-5)
    assert (detector.options.score, detector.options.most) == (0.05, 100)
    # The test has no floor: what the saved detector leaves out is in VOC's files.
    assert len(coco) < sum(len(of.scores) for of in found.values())
    drawn = sorted(path.name for path in (learned / "results" / "pictures").iterdir())
    assert drawn == [f"{name}.png" for name in source.names[:2]]
    assert (learned / "results" / "precision_recall.png").exists()
    assert "COCO" in (learned / "results" / "table.md").read_text()


def test_the_network_is_where_it_begins(root, learned):
    """conv1 is frozen, with its batch norm folded in; all else has learned."""
    detector = open_detector(learned)
    assert not any("batch_norm" in layer.name or "bn" in layer.name for layer in detector.model.trunk.layers)
    feature_model = toy.network()
    kernel, bias = feature_model.model.get_layer("first_conv").get_weights()
    norm = feature_model.model.get_layer("first_bn")
    scale = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    folded, shift = detector.model.trunk.get_layer("first_conv").get_weights()
    np.testing.assert_allclose(folded, kernel * scale, rtol=1e-5)
    np.testing.assert_allclose(shift, (bias - norm.moving_mean) * scale + norm.beta, rtol=1e-4, atol=1e-6)
    second = detector.model.trunk.get_layer("second_conv").get_weights()[0]
    norm = feature_model.model.get_layer("second_bn")
    scale = np.asarray(norm.gamma) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    before = feature_model.model.get_layer("second_conv").get_weights()[0] * scale
    assert 1e-4 < np.abs(second - before).max() < 1


@pytest.mark.slow
def test_killed_and_stopped_it_ends_as_if_nothing_had_happened(root, shared, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    status, output = processes.finish(toy.start(root, whole, **shared))
    assert status == 0, output
    status, output = processes.stop_at(toy.start(root, broken, **shared), broken, 3)
    assert status == -signal.SIGKILL, output
    assert not (broken / "detector.keras").exists()
    running = toy.start(root, broken, **shared)
    status, output = processes.stop_at(running, broken, 6, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM, output
    assert "The same command continues." in output
    assert "Traceback" not in output
    status, output = processes.finish(toy.start(root, broken, **shared))
    assert status == 0, output
    assert "Continuing after step" in output
    processes.assert_same_end(whole, broken)
    figures = [load_result(workdir / "evaluation.json").figures for workdir in (whole, broken)]
    assert figures[0] == figures[1]


@pytest.mark.slow
def test_two_replicas_learn_as_one_device(root, shared, tmp_path):
    """Losses are means over a replica's regions; here all have as many."""
    runs = {"one": {}, "two": {"strategy": "mirrored", "logical_cpus": "2"}}
    common = {
        "steps": "4",
        "detector__dropout": "0.0",
        "regions__count": "4",
        "regions__foreground_share": "0.5",
        "optimizer__milestones": "((4,1e-3),)",
    }
    for name, options in runs.items():
        options = common | options
        status, output = processes.finish(toy.start(root, tmp_path / name, **shared, **options))
        assert status == 0, output
    one, two = (processes.state(tmp_path / name, 4) for name in runs)
    velocities = [name for name in one if "velocity" in name]
    assert len(velocities) == 2 + 4 * 2  # conv2, fc6, fc7 and both heads
    for name in velocities:
        largest = np.abs(one[name]).max()
        np.testing.assert_allclose(two[name], one[name], atol=0.02 * largest, err_msg=name)


def test_a_detector_is_tested_whole_and_truncated(root, shared, learned, tmp_path, capsys):
    def tested(name, *more):
        given = toy.arguments(root, tmp_path / name, **shared, deterministic="False")
        given[0] = f"--model={learned}"
        assert cli.main(["rfd", "detect", *given, *more]) == 0
        assert not (tmp_path / name / "checkpoints").exists()
        return load_result(tmp_path / name / "evaluation.json").figures["Fast R-CNN"].average_precision

    expected = load_result(learned / "evaluation.json").figures["Fast R-CNN"].average_precision
    assert tested("whole") == expected
    assert tested("full_rank", f"--svd={toy.DENSE},{toy.DENSE}") == expected
    assert tested("rank_one", "--svd=1,1") != expected
    capsys.readouterr()
    given = toy.arguments(root, tmp_path / "refused", **shared)
    assert cli.main(["rfd", "detect", *given, "--svd=1,1"]) == 1
    assert "--svd is for detectors" in capsys.readouterr().err
    given[0] = f"--model={learned}"
    assert cli.main(["rfd", "detect", *given, "--svd=1,x"]) == 1
    assert "--svd must be two ranks, such as 1024,256. Received: 1,x" in capsys.readouterr().err
    assert cli.main(["rfd", "detect", *given, "--config.data.classes=('cat','horse')"]) == 1
    assert not (tmp_path / "refused" / "config.json").exists()


def test_objects_in_images_of_ones_own(root, learned, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    source = VocDevkit(root, "test")
    for index, name in enumerate(source.names[:2]):
        with Image.open(source.describe(index)) as image:
            image.save(folder / f"{name}.png")
    out = tmp_path / "found"
    command = ["rfd", "detect", f"--model={learned}", f"--images={folder}", f"--out={out}"]
    assert cli.main(command) == 0
    listed = json.loads((out / "detections.json").read_text())
    assert [image["file"] for image in listed] == [f"{name}.png" for name in source.names[:2]]
    for image, annotation in zip(listed, source.annotations, strict=False):
        best = image["detections"][0]
        assert best["class"] in {source.class_names[label] for label in annotation.labels}
        assert best["score"] > 0.5
    assert len(list((out / "pictures").iterdir())) == 2
    # Again it has nothing to do; other images need another folder.
    (out / "detections.json").unlink()
    assert cli.main(command) == 0
    assert json.loads((out / "detections.json").read_text()) == listed
    (folder / f"{source.names[0]}.png").unlink()
    assert cli.main(command) == 1
    assert "pictures:" in capsys.readouterr().err


def test_options_of_the_test_and_of_what_is_saved():
    """What a config of before says holds for both; later ones test without a floor, as Fast R-CNN's code."""
    before = ConfigDict({"short_sides": (600,), "longest": 1000, "score": 0.05, "nms_iou": 0.3, "most": 100})
    assert detection_options(before) == (DetectionOptions(),) * 2
    tested, saved = detection_options(voc2007.get_config().test)
    assert tested == DetectionOptions(score=0.0, most=0, most_of_class=100)
    assert saved == DetectionOptions(score=0.05, most=100, most_of_class=100)


def test_two_classes_of_ones_own(tmp_path, capsys):
    """From a folder in VOC's format to objects found in images: the classes go with the detector."""
    own = ("tallstock", "headstock")
    root = toy.write_devkit(tmp_path, own)
    toy.write_network(root / "network.keras")
    path = root / "VOC2007" / "Annotations" / "000003.xml"
    text = re.sub(r"<difficult>0</difficult>", "", path.read_text())
    path.write_text(re.sub(r"<xmin>\d+</xmin>", "<xmin>0</xmin>", text, count=1))
    options = {
        "steps": "100",
        "log_steps": "100",
        "optimizer__milestones": "((100,1e-2),)",
        "detector__dropout": "0.0",
        "deterministic": "False",
        "draw": "0",
    }
    run = tmp_path / "run"
    for refused, message in (
        ({}, "'tallstock', which is not a class of VOC: name your own in `classes`"),
        ({"data__classes": "('headstock',)"}, "'tallstock', which is not one of the 1 classes (headstock)"),
        ({"data__classes": "*"}, "000003.xml: the box of object 1"),
    ):
        assert cli.main(["rfd", "detect", *toy.arguments(root, run, **options, **refused)]) == 1
        assert message in capsys.readouterr().err
    options |= {"data__classes": "*", "data__boxes": "clip"}
    assert cli.main(["rfd", "detect", *toy.arguments(root, run, **options)]) == 0
    note = "1 of 12 boxes, in 1 of 8 images of VOC2007, reached beyond their image, by up to 1 pixels"
    assert note in capsys.readouterr().out
    result = load_result(run / "evaluation.json")
    assert result.class_names == sorted(own)
    assert [note in line for line in result.notes] == [True]
    assert result.figures["Fast R-CNN"].mean_average_precision["area"] > 0.5
    assert (run / "results" / "comp4_det_test_headstock.txt").read_text()
    detector = open_detector(run)
    assert detector.class_names == tuple(sorted(own))
    assert detector.facts()["class_names"] == sorted(own)
    images, out = root / "VOC2007" / "JPEGImages", tmp_path / "found"
    assert cli.main(["rfd", "detect", f"--model={run}", f"--images={images}", f"--out={out}"]) == 0
    listed = json.loads((out / "detections.json").read_text())
    assert {found["class"] for of in listed for found in of["detections"]} == set(own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "10"}, "multiple of `log_steps`"),
        ({"regions__count": "15"}, "`regions.count` must be a positive multiple of `batch_size`"),
        ({"detector__dense_width": "8"}, "fc6 of 'toy' has 16 units"),
        ({"detector__pool_size": "3"}, "no fc6 on a map of"),
        ({"detector__frozen": "third"}, "no map 'third'"),
        ({"detector__feature": "fc_block"}, "no feature map 'fc_block'"),
        ({"proposals__source": "psychic"}, "`proposals.source` must be one of"),
        ({"proposals__source": "mat"}, "empty"),
        ({"data__limit": "1"}, "fewer than one batch"),
        ({"longest": "600"}, "`longest` must be 512 pixels at most"),
        ({"test__longest": "600"}, "`test.longest` must be 512 pixels at most"),
        ({"test__score": "1.0"}, "`score` must be in"),
        ({"test__most_of_class": "0"}, "needs a `test.most_of_class`"),
    ],
)
def test_refusals(root, shared, tmp_path, capsys, changes, message):
    options = {"deterministic": "False", **shared, **changes}
    assert cli.main(["rfd", "detect", *toy.arguments(root, tmp_path / "run", **options)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images=a"], "--model is needed"),
        (["--model=a", "--images=b", "--out=c", "--control"], "--control does not go with --images"),
        (["--model=a", "--workdir=b", "--out=c"], "--out does not go without --images"),
        (["--model=a", "--workdir=b"], "--config is needed"),
        (["--model=a", "--workdir=b", "--config=classify"], "is a config of `rfd train`"),
    ],
)
def test_flags_that_do_not_go_together(capsys, flags, message):
    assert cli.main(["rfd", "detect", *flags]) == 2
    assert message in capsys.readouterr().err


def test_an_annotation_of_another_size_is_named(root, shared, tmp_path, capsys):
    other = toy.write_devkit(tmp_path / "other")
    toy.write_network(other / "network.keras")
    path = other / "VOC2007" / "JPEGImages" / "000002.jpg"
    Image.new("RGB", (90, 60)).save(path)
    options = {"deterministic": "False", **shared}
    assert cli.main(["rfd", "detect", *toy.arguments(other, tmp_path / "run", **options)]) == 1
    assert "000002.jpg is 90 x 60 pixels, its annotation says 80 x 60" in capsys.readouterr().err
