"""The untrained control of a run: what the run began with, measured like the run."""

import json

import keras
import numpy as np
import pytest
from ml_collections import ConfigDict

from rfd_tf import cli
from rfd_tf.data import evaluation_dataset
from rfd_tf.evaluation.evaluate import open_control, untrained_copy
from rfd_tf.evaluation.results import load_result
from rfd_tf.runs.images import open_run_images
from tests.training import processes

KNN = ("--protocol=knn", "--config=evaluate_folder", "--config.knn.k=(5,)")
DIGITS = (
    "--config.data.source=digits",
    "--config.validation.source=digits",
    "--config.validation.split=validation",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run at a vanishing rate: its weights are still those it began with, batch-norm statistics aside."""
    folder = tmp_path_factory.mktemp("runs") / "standing_still"
    still = ("--config.optimizer.milestones=((1,1e-30),)", "--config.optimizer.weight_decay=0.0")
    processes.run(folder, "--config.epochs=1", "--config.seed=3", *still)
    return folder


@pytest.fixture(scope="module")
def control(run):
    return open_control(run).model


def test_has_the_weights_the_run_began_with(run, control):
    began = keras.saving.load_model(run / "backbone.keras")
    for ours, theirs in zip(control.trainable_variables, began.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-20, err_msg=theirs.path)


def test_has_the_batch_norm_statistics_of_the_training_images(run, control):
    batch_norms = [layer for layer in control.layers if isinstance(layer, keras.layers.BatchNormalization)]
    config = ConfigDict(json.loads((run / "config.json").read_text()))
    image_set, _ = open_run_images(config, run)
    batches = evaluation_dataset(image_set.source, image_set.preprocessing, 1000, image_set.valid)
    images = np.concatenate([features["image"] for features, _ in batches])
    for layer in (batch_norms[0], batch_norms[-1]):
        arriving = keras.Model(control.input, layer.input).predict(images, batch_size=256, verbose=0)
        axes = tuple(range(arriving.ndim - 1))
        scale = arriving.std(axes)
        # Exact in the first, which sees the images; the last see what batches of 32 made of them on the way.
        tolerance = 0.1 if layer is batch_norms[0] else 0.6
        np.testing.assert_allclose((layer.moving_mean - arriving.mean(axes)) / scale, 0, atol=tolerance)
        np.testing.assert_allclose(np.sqrt(layer.moving_variance) / scale, 1, atol=tolerance)


def test_slow_batch_norms_have_them_too(run):
    """At Keras's 0.999 three passes over these images leave 95 % of what the statistics began with."""
    image_set, _ = open_run_images(ConfigDict(json.loads((run / "config.json").read_text())), run)
    inputs = keras.Input((16, 16, 3))
    nested = keras.Sequential([keras.layers.BatchNormalization(momentum=0.999), keras.layers.Flatten()])
    slow = keras.Model(inputs, nested(inputs))
    network = untrained_copy(slow, image_set)
    norm = network.layers[-1].layers[0]
    batches = evaluation_dataset(image_set.source, image_set.preprocessing, 1000, image_set.valid)
    images = np.concatenate([features["image"] for features, _ in batches])
    scale = images.std((0, 1, 2))
    np.testing.assert_allclose((norm.moving_mean - images.mean((0, 1, 2))) / scale, 0, atol=0.1)
    np.testing.assert_allclose(np.sqrt(norm.moving_variance) / scale, 1, atol=0.1)
    assert norm.momentum == 0.999


def test_is_measured_beside_the_run(run):
    assert cli.main(["rfd", "evaluate", f"--model={run}", *KNN, *DIGITS, "--control"]) == 0
    control = load_result(run / "evaluations" / "knn-control" / "evaluation.json")
    assert control.model == f"{run}/untrained control"
    assert control.figures.keys() == {"features, k=5"}


def test_only_a_run_has_one(tmp_path, capsys):
    arguments = [f"--model={tmp_path / 'none'}", f"--workdir={tmp_path / 'w'}", *KNN, *DIGITS, "--control"]
    assert cli.main(["rfd", "evaluate", *arguments]) == 1
    assert f"{tmp_path / 'none'} is not the folder of a run" in capsys.readouterr().err
