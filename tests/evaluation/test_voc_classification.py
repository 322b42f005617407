"""Every method on made-up images and a tiny network, in processes of their own."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from rfd_tf.data import VOC_CLASSES, BadImageError, VocDevkit, VocError
from rfd_tf.evaluation.evaluate import evaluate
from rfd_tf.evaluation.experiment import MULTI_LABEL, open_experiment
from rfd_tf.evaluation.results import load_result, multi_label_figures, text_table
from rfd_tf.evaluation.voc_classification import run_voc_classification
from rfd_tf.features import open_feature_model, save_keras
from rfd_tf.runs.run import Run
from rfd_tf.runs.workdir import read_history
from tests.evaluation import tiny, voc
from tests.evaluation.test_probe_protocols import ROOT, TWO_REPLICAS, signalled_at, start, weights
from tests.training import processes

WHOLE = {"preprocessing__train": "resize", "voc__test_crops": 0}  # the same images for learning and testing
RESUMED = {"checkpoint_steps": 2, "epochs": 3, "preprocessing__flip": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("voc")
    voc.write_voc(path / "VOCdevkit")
    return path


def job(folder: Path, name: str, method: str, **changes) -> dict:
    return {
        "protocol": "voc_classification",
        "devkit": str(folder / "VOCdevkit"),
        "workdir": str(folder / name),
        "changes": {"voc__method": method, **changes},
    }


@pytest.fixture(scope="module")
def done(folder):
    """All that needs one device and no interruption, in one process."""
    schedule = {"epochs": 60, "optimizer__milestones": [[60, 0.05]]}
    easy = {"features": ["first"], "voc__dropout": 0.0, "voc__dense_width": 64}
    jobs = [
        job(folder, "fc6-8", "fc6-8", **RESUMED),
        job(folder, "learnt", "finetune", **schedule, **easy, **WHOLE),
        job(folder, "own", "finetune", **WHOLE) | {"form": "with dense layers"},
        job(folder, "svm", "svm", input="cached"),
        job(folder, "other form", "svm") | {"form": "other"},
        job(folder, "low shot", "low_shot_svm"),
    ]
    status, output = processes.finish(start(folder, *jobs))
    assert status == 0, output
    return folder, output


def figures(folder: Path, name: str) -> dict:
    return load_result(folder / name / "evaluation.json").figures


def experiment(folder, tmp_path, model=None, **changes):
    config = voc.config_of(folder / "VOCdevkit", **changes)
    return open_experiment(Run(config, tmp_path), model or tiny.feature_model(), MULTI_LABEL)


def features(folder, split: str) -> np.ndarray:
    """Of length 1, without any of our machinery for them."""
    feature_model, source = tiny.feature_model(), VocDevkit(folder / "VOCdevkit", split)
    images = [
        feature_model.info.preprocessing.eval_image(source.fetch(i)).numpy() for i in range(len(source))
    ]
    found = feature_model(np.stack(images), ["second"])["second"].reshape(len(source), -1).astype("float64")
    return found / (np.linalg.norm(found, axis=1, keepdims=True) + 1e-5)


def test_results_tell_what_was_learnt(done):
    folder, _ = done
    source = VocDevkit(folder / "VOCdevkit", "trainval")
    for name, classifiers in {
        "fc6-8": ["second, 3 crops"],
        "learnt": ["first, centre crop"],
        "svm": ["second"],
        "low shot": ["second, k=1", "second, k=2"],
    }.items():
        result = load_result(folder / name / "evaluation.json")
        assert list(result.figures) == classifiers
        assert tuple(result.class_names) == VOC_CLASSES
        assert result.class_counts == (source.targets == 1).sum(axis=0).tolist()
        assert result.test_images == voc.TEST


def test_training_learns(done):
    folder, _ = done
    loss = read_history(folder / "learnt" / "history.csv")["loss"]
    assert loss[-1] < 0.1 * loss[0]
    (found,) = figures(folder, "learnt").values()
    assert found.mean_average_precision["11_point"] > 0.6
    (begun,) = figures(folder, "fc6-8").values()
    assert begun.mean_average_precision["11_point"] < 0.4  # of images 0.2 show a class


def test_the_saved_classifier_gives_the_figures(done):
    folder, _ = done
    feature_model = open_feature_model(folder / "learnt" / "voc_classifier.keras")
    source = VocDevkit(folder / "VOCdevkit", "test")
    images = [
        feature_model.info.preprocessing.eval_image(source.fetch(i)).numpy() for i in range(len(source))
    ]
    scores = feature_model(np.stack(images))["logits"]
    (found,) = figures(folder, "learnt").values()
    for rule, value in multi_label_figures(source.targets, scores).mean_average_precision.items():
        assert found.mean_average_precision[rule] == pytest.approx(value, abs=0.02)


def test_frozen_networks_are_no_part_of_checkpoints(done):
    folder, _ = done
    kernels = {}
    for name in ("fc6-8", "learnt"):
        state = processes.state(folder / name, processes.latest_step(folder / name))
        kernels[name] = [path for path in state if path.startswith("model") and path.endswith("kernel")]
    assert len(kernels["fc6-8"]) == 3
    assert len(kernels["learnt"]) == 4


def test_own_dense_layers_are_the_start_of_finetuning(done):
    folder, output = done
    assert "fc6 and fc7 begin as the network's own" in output
    assert "fc6 and fc7 begin as new ones" in output
    state = processes.state(folder / "own", processes.latest_step(folder / "own"))
    (kernel,) = [v for path, v in state.items() if path.startswith("model") and "head_fc6/kernel" in path]
    assert kernel.shape == (36, tiny.DENSE)


def test_svms_are_scikit_learns(done):
    """Costs by cross-validation apart, the same as by hand: the right labels, the right images."""
    folder, _ = done
    training, test = (VocDevkit(folder / "VOCdevkit", split).targets for split in ("trainval", "test"))
    inputs, queries = features(folder, "trainval"), features(folder, "test")
    with np.load(folder / "svm" / "cache" / "svm" / "second" / "machines.npz") as archive:
        scores, costs = archive["scores"], json.loads(str(archive["key"]))[-1]
    assert len(set(costs)) > 1
    for label in range(20):
        counted = training[:, label] != 0
        machine = LinearSVC(
            C=costs[label], class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0
        )
        machine.fit(inputs[counted], training[counted, label])
        np.testing.assert_allclose(scores[label], machine.decision_function(queries), atol=1e-3)
    (found,) = figures(folder, "svm").values()
    assert found.average_precision == multi_label_figures(test, scores.T).average_precision
    assert found.mean_average_precision["11_point"] > 0.35  # some 0.2 by chance
    other = figures(folder, "other form")["second"]
    assert other.mean_average_precision["area"] == pytest.approx(
        found.mean_average_precision["area"], abs=0.01
    )


def test_low_shot_figures_are_means_of_draws(done):
    folder, output = done
    assert "k=64 is left out" in output
    archives = [folder / "low shot" / "cache" / "svm" / "second" / f"2-shot-{n}.npz" for n in range(2)]
    precisions = np.array([np.load(path)["precisions"] for path in archives])  # [samples, costs, rules, C]
    found = figures(folder, "low shot")["second, k=2"]
    for number, rule in enumerate(("11_point", "area")):
        maps = precisions[:, :, number].mean(axis=2)
        assert found.mean_average_precision[rule] == pytest.approx(maps[:, 0].mean())
        assert found.extra[f"{rule}_map_std"] == pytest.approx(maps[:, 0].std())
        assert found.extra[f"best_{rule}_map"] >= found.mean_average_precision[rule] - (rule == "11_point")
    assert found.extra["samples"] == 2
    assert found.extra["best_cost"] in (0.1, 1.0, 10.0)


def test_stopped_it_ends_as_if_nothing_had_happened(done, folder):
    """SIGTERM before step 7, in the middle of the second epoch: dropout, too, goes on where it was."""
    broken = job(folder, "broken", "fc6-8", **RESUMED)
    assert "after step 8" in signalled_at(7, signal.SIGTERM, broken, folder)
    assert processes.latest_step(folder / "broken") == 8
    status, output = processes.finish(start(folder, broken))
    assert status == 0, output
    processes.assert_same_end(folder / "fc6-8", folder / "broken")
    assert figures(folder, "broken") == figures(folder, "fc6-8")


@pytest.mark.slow
def test_two_replicas_learn_what_one_device_learns(folder):
    changes = {"voc__dropout": 0.0, "voc__test_crops": 1, "optimizer__clip_norm": 0.0}
    one = job(folder, "one device", "finetune", **changes)
    two = job(folder, "two replicas", "finetune", **changes, **TWO_REPLICAS)
    for process in (start(folder, one), start(folder, two)):
        status, output = processes.finish(process)
        assert status == 0, output
    found, expected = (weights(folder / name) for name in ("two replicas", "one device"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert list(figures(folder, "two replicas")) == ["second, 1 crops"]


def test_the_command_prints_a_table_of_classes(folder, tmp_path):
    save_keras(tiny.feature_model(), tmp_path / "tiny.keras")
    flags = {
        "model": tmp_path / "tiny.keras",
        "protocol": "voc_classification",
        "config": "voc_classification",
        "workdir": tmp_path / "work",
        "config.data.root": folder / "VOCdevkit",
        "config.validation.root": folder / "VOCdevkit",
        "config.voc.method": "svm",
        "config.features": "('second',)",
    }
    command = [sys.executable, "-m", "rfd_tf.cli", "evaluate", *(f"--{k}={v}" for k, v in flags.items())]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "mAP, 11-point" in found.stdout
    for name in VOC_CLASSES:
        assert f"\n{name} " in found.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voc__method": "fc9"}, "fc6-8, finetune, svm, low_shot_svm.*'fc9'"),
        ({"features": ("first", "second")}, "takes one of `features`"),
        ({"input": "cached"}, "needs `input='images'`"),
        ({"voc__test_crops": -1}, "-1"),
        ({"voc__dropout": 1.5}, "1.5"),
        ({"voc__method": "svm", "voc__costs": (0.0, 1.0)}, "`voc.costs`"),
        ({"voc__method": "svm", "voc__folds": 1}, "`folds` >= 2"),
        ({"voc__method": "svm", "voc__folds": 50}, "to choose a cost by"),
        ({"voc__method": "svm", "label_fraction": 0.1}, "No training image shows a"),
        ({"voc__method": "low_shot_svm", "voc__shots": (64,)}, "`voc.shots` must be from 1 to"),
        ({"voc__method": "low_shot_svm", "voc__shots": (0, 1)}, "`voc.shots`"),
        ({"voc__method": "low_shot_svm", "voc__low_shot_cost": 0.0}, "`voc.low_shot_cost`"),
    ],
)
def test_what_is_refused(folder, tmp_path, changes, message):
    import tensorflow as tf

    opened = experiment(folder, tmp_path, **changes)
    run = dataclasses.replace(opened.run, strategy=tf.distribute.get_strategy())
    opened = dataclasses.replace(opened, run=run)
    with pytest.raises(ValueError, match=message):
        run_voc_classification(opened)


def test_other_forms_cannot_be_trained(folder, tmp_path):
    opened = experiment(folder, tmp_path, tiny.OtherForm(tiny.feature_model()))
    with pytest.raises(ValueError, match=r"trains a Keras model.*other form is not one"):
        run_voc_classification(opened)


def test_images_need_targets(folder, tmp_path):
    tiny.write_images(tmp_path / "pictures.npz")
    changes = {"source": "npz", "root": str(tmp_path / "pictures.npz"), "split": "test"}
    with pytest.raises(ValueError, match=r"have no multi-label targets.*voc_devkit, voc_tfds"):
        experiment(folder, tmp_path, **{f"validation__{name}": value for name, value in changes.items()})
    config = tiny.config_of(tmp_path / "pictures.npz")
    opened = open_experiment(Run(config, tmp_path), tiny.feature_model())
    with pytest.raises(ValueError, match="take --config=voc_classification"):
        run_voc_classification(opened)


def test_classes_of_ones_own(tmp_path):
    """Two names that VOC does not have, sorted; they go with the result and the saved classifier."""
    root = voc.write_voc(tmp_path / "VOCdevkit", ("wren", "robin"))
    annotation = root / "VOC2007" / "Annotations" / "000001.xml"
    annotation.write_text(annotation.read_text().replace("<xmin>9</xmin>", "<xmin>-0.5</xmin>"))
    with pytest.raises(VocError, match="'wren', which is not a class of VOC"):
        evaluate("voc_classification", voc.config_of(root), tmp_path / "none", tiny.feature_model)
    own = {"data__classes": ("*",), "data__boxes": "clip", "voc__costs": (1.0,), "deterministic": False}
    names = ["robin", "wren"]
    for method, changes in {"svm": {}, "fc6-8": {"epochs": 1, "optimizer__milestones": ((1, 1e-2),)}}.items():
        config = voc.config_of(root, voc__method=method, **own, **changes)
        result = evaluate("voc_classification", config, tmp_path / method, tiny.feature_model)
        assert result.class_names == names
        (found,) = result.figures.values()
        assert len(found.average_precision["area"]) == 2
        assert ["boxes, in 1 of 60 images" in note for note in result.notes] == [True]
        assert load_result(tmp_path / method / "evaluation.json").notes == result.notes
        assert result.notes[0] in text_table(result)
    classifier = open_feature_model(tmp_path / "fc6-8" / "voc_classifier.keras")
    assert classifier.info.class_names == tuple(names)
    assert classifier.info.outputs == {"logits": (2,)}


def test_a_corrupt_image_is_named(folder, tmp_path):
    root = voc.write_voc(tmp_path / "VOCdevkit")
    (root / "VOC2007" / "JPEGImages" / "000007.jpg").write_bytes(b"\xff\xd8\xff broken")
    for method in ("svm", "fc6-8"):
        config = voc.config_of(root, voc__method=method, deterministic=False)
        with pytest.raises(BadImageError, match=r"000007\.jpg"):
            evaluate("voc_classification", config, tmp_path / method, tiny.feature_model)
