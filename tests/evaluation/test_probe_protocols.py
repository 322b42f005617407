"""The protocols that train probes, on a tiny network, in every way of reading and training."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from rfd_tf import distribution
from rfd_tf.evaluation import finetune, probes
from rfd_tf.evaluation.experiment import open_experiment
from rfd_tf.evaluation.results import load_result
from rfd_tf.features import open_feature_model
from rfd_tf.losses import CLASSIFIER_LOSSES
from rfd_tf.runs.run import Run
from tests.distribution.cluster import two_worker_configs
from tests.evaluation import tiny
from tests.training import processes

ROOT = Path(__file__).parents[2]
LONG_TAIL = (20, 10, 5)
HALF = {"label_fraction": 0.5, "batch_size": 6}
TWO_REPLICAS = {"strategy": "mirrored", "logical_cpus": 2}
RESUMED = {
    "checkpoint_steps": 3,
    "classifier__losses": ["ldam_drw", "class_balanced"],
    "preprocessing__train": "random_resized_crop",
    "tensorboard": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("probes")
    tiny.write_images(path / "pictures.npz")
    tiny.write_images(path / "separable.npz", noise=4.0)
    tiny.write_images(path / "long_tail.npz", LONG_TAIL)
    return path


def start(folder: Path, *jobs: dict, tf_config: dict | None = None) -> subprocess.Popen:
    jobs = [{"pictures": str(folder / "pictures.npz")} | job for job in jobs]
    path = folder / f"{Path(jobs[0]['workdir']).name}-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(jobs))
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.evaluation.probe_process", str(path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def job(folder: Path, name: str, protocol: str = "linear", **changes) -> dict:
    return {"protocol": protocol, "workdir": str(folder / name), "changes": changes}


@pytest.fixture(scope="module")
def done(folder):
    """All evaluations that need nothing but one device, in one process."""
    separable = {"pictures": str(folder / "separable.npz")}
    jobs = [
        job(folder, "images"),
        job(folder, "cached", input="cached"),
        job(folder, "other_images") | {"form": "other"},
        job(folder, "nonlinear", "nonlinear", features=["first"], nonlinear__convolution=["first"], **HALF),
        job(folder, "finetune", "finetune", finetune__rate_factor=0.5) | separable,
        job(folder, "separable", input="cached", epochs=30, optimizer__milestones=[[30, 0.01]]) | separable,
        job(folder, "losses", input="cached", features=["features"], classifier__losses=["all"])
        | {"pictures": str(folder / "long_tail.npz")},
        job(folder, "resumed", **RESUMED),
    ]
    status, output = processes.finish(start(folder, *jobs))
    assert status == 0, output
    return folder


def figures(folder: Path, name: str) -> dict:
    return load_result(folder / name / "evaluation.json").figures


def weights(workdir: Path) -> list[np.ndarray]:
    return list(processes.state(workdir, processes.latest_step(workdir)).values())


def test_every_map_is_probed_by_default(done):
    assert list(figures(done, "images")) == ["first", "second"]
    result = load_result(done / "images" / "evaluation.json")
    assert (result.protocol, result.test_images, result.class_counts) == ("linear", 24, [20, 20, 20])


@pytest.mark.parametrize("name", ["cached", "other_images"])
def test_without_augmentation_every_way_of_reading_gives_the_same(done, name):
    expected = weights(done / "images")
    for found, value in zip(weights(done / name), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-4)
    assert figures(done, name) == figures(done, "images")


def test_the_checkpoint_holds_no_frozen_network(done):
    state = processes.state(done / "images", processes.latest_step(done / "images"))
    assert not any("conv" in name for name in state), list(state)


def test_separable_classes_are_all_found(done):
    for name, found in figures(done, "separable").items():
        assert found.top1 == found.balanced_accuracy == 1.0, name
    (found,) = figures(done, "finetune").values()
    assert found.top1 == 1.0


def test_figures_are_of_the_last_epoch_and_extra_of_the_best(done):
    with open(done / "images" / "history.csv", newline="") as file:
        history = list(csv.DictReader(file))
    assert len(history) == 3
    for name, found in figures(done, "images").items():
        by_epoch = [float(row[f"val_{name}_top1"]) for row in history]
        assert found.top1 == pytest.approx(by_epoch[-1])
        assert found.extra["best_top1"] == pytest.approx(max(by_epoch))
        assert found.extra["best_epoch"] == 1 + by_epoch.index(max(by_epoch))


def test_seven_losses_at_once(done):
    found = figures(done, "losses")
    assert list(found) == [f"features/{loss}" for loss in CLASSIFIER_LOSSES]
    assert load_result(done / "losses" / "evaluation.json").class_counts == list(LONG_TAIL)
    state = processes.state(done / "losses", processes.latest_step(done / "losses"))
    kernels = [value for name, value in state.items() if name.startswith("model") and name.endswith("kernel")]
    assert len(kernels) == 7
    *different, softmax, adjusted = kernels
    assert len({kernel.tobytes() for kernel in (*different, softmax)}) == 6
    # At tau = 1 these two differ by a constant in the logits; from the same start they learn the same.
    np.testing.assert_allclose(softmax, adjusted, rtol=1e-3, atol=1e-4)
    # Deferred re-weighting has acted in the last epoch, on its own loss alone; class-balanced from the start.
    class_weights = [value for name, value in state.items() if name.endswith("class_weights")]
    even = [np.allclose(value, 1) for value in class_weights]
    assert sorted(even) == [False, False, True]


def test_label_fraction(done):
    result = load_result(done / "nonlinear" / "evaluation.json")
    assert result.class_counts == [10, 10, 10]
    assert processes.latest_step(done / "nonlinear") == 3 * 30 // 6


def test_the_nonlinear_probe_begins_with_a_convolution_where_asked(done):
    assert list(figures(done, "nonlinear")) == ["first"]
    state = processes.state(done / "nonlinear", processes.latest_step(done / "nonlinear"))
    shapes = [value.shape for name, value in state.items() if name.startswith("model")]
    assert (3, 3, 3, 3) in shapes  # of the probe: the network's own has 4 filters next
    assert (8, 8) in shapes


def test_the_finetuned_network_can_be_opened_and_classifies(done):
    tuned = open_feature_model(done / "finetune" / "finetuned.keras")
    before = tiny.feature_model()
    assert tuned.info.outputs == before.info.outputs
    for layer in before.model.layers:
        for old, new in zip(
            layer.get_weights(), tuned.model.get_layer(layer.name).get_weights(), strict=True
        ):
            assert not np.array_equal(old, new), layer.name  # batch norm's statistics, too
    head = keras.saving.load_model(done / "finetune" / "classifier.keras")
    with np.load(done / "separable.npz") as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    logits = head(tuned(tuned.info.normalize(images), ["features"])["features"])
    (found,) = figures(done, "finetune").values()
    assert np.mean(np.argmax(logits, axis=1) == labels) == found.top1


def test_two_replicas_learn_what_one_device_learns(done, folder):
    status, output = processes.finish(start(folder, job(folder, "mirrored", **TWO_REPLICAS)))
    assert status == 0, output
    for found, value in zip(weights(folder / "mirrored"), weights(done / "images"), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-4)
    assert figures(folder, "mirrored") == figures(done, "images")


def test_killed_and_stopped_it_ends_as_if_nothing_had_happened(done, folder):
    """SIGKILL before step 8, with a checkpoint of step 6; SIGTERM before step 11; then to the end."""
    broken = job(folder, "broken", **RESUMED)
    output = signalled_at(8, signal.SIGKILL, broken, folder)
    assert processes.latest_step(folder / "broken") == 6
    output = signalled_at(11, signal.SIGTERM, broken, folder)
    assert "Stopped by SIGTERM: saved after step 12." in output
    assert "Continuing after step 6" in output
    status, output = processes.finish(start(folder, broken))
    assert status == 0, output
    processes.assert_same_end(done / "resumed", folder / "broken")
    assert figures(folder, "broken") == figures(done, "resumed")
    assert list((folder / "broken" / "tensorboard" / "validation").iterdir())


def signalled_at(step: int, number: int, broken: dict, folder: Path) -> str:
    paused, go = (Path(f"{broken['workdir']}.{ending}") for ending in ("paused", "go"))
    for path in (paused, go):
        path.unlink(missing_ok=True)
    process = start(folder, {**broken, "pause_at": step})
    deadline = time.monotonic() + processes.LIMIT
    while not paused.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    go.touch()
    status, output = processes.finish(process)
    assert status == (-number if number == signal.SIGKILL else 128 + number), output
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "reads"), [("linear", "images"), ("linear", "cached"), ("finetune", "images")]
)
def test_two_workers_learn_what_one_device_learns(done, folder, protocol, reads):
    one, two = (f"{workers}_{protocol}_{reads}" for workers in ("one", "two"))
    status, output = processes.finish(start(folder, job(folder, one, protocol, input=reads)))
    assert status == 0, output
    together = job(folder, two, protocol, input=reads, strategy="multi_worker")
    workers = [start(folder, together, tf_config=config) for config in two_worker_configs()]
    for status, output in map(processes.finish, workers):
        assert status == 0, output
    for workdir in (folder / two, folder / two / "worker-1"):
        for found, value in zip(weights(workdir), weights(folder / one), strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-4)
    assert figures(folder, two) == figures(folder, one)


def test_a_model_that_fails_on_the_way_is_told_as_it_is(folder, tmp_path):
    """Not as TensorFlow's error of a failed pipeline."""

    class Unreachable(tiny.OtherForm):
        def _extract(self, images, names):
            raise ConnectionError("the server is gone")

    config = tiny.config_of(folder / "pictures.npz", deterministic=False)
    strategy = distribution.create_strategy("one_device")
    with pytest.raises(ConnectionError, match="the server is gone"):
        probes.run_linear(open_experiment(Run(config, tmp_path, strategy), Unreachable(tiny.feature_model())))


@pytest.mark.parametrize("form", ["keras", "other"])
def test_every_loss_learns_mixed_images(folder, tmp_path, form):
    model = tiny.feature_model() if form == "keras" else tiny.OtherForm(tiny.feature_model())
    config = tiny.config_of(
        folder / "long_tail.npz",
        preprocessing__augment=("mixup", "cutmix"),
        classifier__losses=("all",) if form == "keras" else ("cross_entropy",),
        features=("features",),
        deterministic=False,
    )
    run = Run(config, tmp_path, distribution.create_strategy("one_device"))
    probes.run_linear(open_experiment(run, model))
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [name for name in rows[0] if name.startswith("features") and name.endswith("_loss")]
    assert len(losses) == len(CLASSIFIER_LOSSES if form == "keras" else [1])
    assert all(np.isfinite(float(row[name])) for row in rows for name in losses)


@pytest.mark.parametrize(
    ("changes", "form", "message"),
    [
        ({}, "other", "Only a Keras model can be fine-tuned.*other form"),
        ({"input": "cached"}, "keras", "input='images'"),
        ({"features": ("first",)}, "keras", "one vector"),
        ({"classifier__losses": ("all",)}, "keras", "at a time"),
    ],
)
def test_what_finetuning_refuses(folder, tmp_path, changes, form, message):
    model = tiny.OtherForm(tiny.feature_model()) if form == "other" else tiny.feature_model()
    config = tiny.config_of(folder / "pictures.npz", **changes)
    with pytest.raises(ValueError, match=message):
        finetune.run_finetune(open_experiment(Run(config, tmp_path), model))


def test_an_unknown_input_is_refused(folder, tmp_path):
    config = tiny.config_of(folder / "pictures.npz", input="video")
    with pytest.raises(ValueError, match="input='video'"):
        probes.run_linear(open_experiment(Run(config, tmp_path), tiny.feature_model()))
