"""`rfd train --config=classify`: a whole network on long-tailed labels."""

import csv

import keras
import numpy as np
import pytest

from rfd_tf import cli
from rfd_tf.data import training_dataset
from rfd_tf.evaluation.results import load_result
from rfd_tf.features import open_feature_model
from rfd_tf.models import create_backbone

TINY = {
    "--config": "classify",
    "--config.data.source": "digits",
    "--config.data.long_tail.ratio": "10",
    "--config.validation.source": "digits",
    "--config.validation.split": "validation",
    "--config.preprocessing.image_size": "16",
    "--config.preprocessing.resize": "16",
    "--config.preprocessing.flip": "False",
    "--config.backbone.name": "resnet8",
    "--config.backbone.features": "('block1','pool')",
    "--config.backbone.width": "4",
    "--config.batch_size": "64",
    "--config.epochs": "3",
    "--config.optimizer.milestones": "((2,0.05),(3,0.005))",
    "--config.optimizer.warmup_epochs": "1",
    "--config.classifier.drw_start_epoch": "2",
    "--config.checkpoint_steps": "0",
    "--config.tensorboard": "False",
    "--config.deterministic": "False",
}


def train(workdir, *overrides) -> int:
    flags = TINY | dict(override.split("=", 1) for override in overrides)
    arguments = [f"{name}={value}" for name, value in flags.items()]
    return cli.main(["rfd", "train", f"--workdir={workdir}", *arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ldam_drw"
    assert train(folder) == 0
    return folder


def history(run) -> dict[str, list[float]]:
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_it_learns_and_the_figures_are_there(run):
    logged = history(run)
    result = load_result(run / "evaluation.json")
    assert result.protocol == "classify"
    assert result.command.startswith("rfd train ")
    assert result.class_counts[0] > 9 * result.class_counts[-1]
    assert result.figures["features"].top1 == pytest.approx(logged["val_features_top1"][-1], abs=1e-6)
    assert logged["features_top1"][-1] > 1.5 * logged["features_top1"][0]
    assert set(result.figures["features"].extra) == {"best_epoch", "best_top1"}


def test_reweighting_began_when_it_should(run):
    """Rare classes weigh more, so that the loss of the same network jumps."""
    losses = history(run)["loss"]
    assert losses[1] < losses[0]
    assert losses[2] > losses[1]


def test_network_and_classifier_are_saved(run):
    images = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype("float32")
    with open_feature_model(str(run)) as feature_model:
        assert list(feature_model.info.outputs) == ["features", "block1"]
        features = feature_model(images)["features"]
    cosines = keras.saving.load_model(run / "classifier.keras").predict(features, verbose=0)
    assert cosines.shape == (5, 10)
    assert np.abs(cosines).max() <= 1 + 1e-6


def test_a_finished_run_is_not_trained_again(run):
    before = history(run)
    assert train(run) == 0
    assert history(run) == before


def test_is_no_pretraining_to_be_summarised(run, capsys):
    for flags in ((), ("--summary",)):
        assert cli.main(["rfd", "report", f"--workdir={run}", *flags]) == 1
        assert str(run) in capsys.readouterr().err


def test_starts_from_a_backbone(tmp_path):
    keras.utils.set_random_seed(5)
    init = create_backbone("resnet8", (16, 16, 3), ["block1", "pool"], width=4)
    init.save(tmp_path / "init.keras")
    still = ("--config.optimizer.milestones=((1,1e-30),)", "--config.optimizer.weight_decay=0.0")
    status = train(
        tmp_path / "run",
        *still,
        f"--config.init={tmp_path / 'init.keras'}",
        "--config.optimizer.weight_decay=0.0",
    )
    assert status == 0
    found = keras.saving.load_model(tmp_path / "run" / "backbone.keras")
    for ours, theirs in zip(found.trainable_variables, init.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-20, err_msg=theirs.path)


def test_class_balanced_sampling_draws_every_class_alike(tmp_path, monkeypatch):
    drawn_by = []

    def recorded(source, preprocessing, schedule, **options):
        drawn_by.append((source.labels[schedule.valid], schedule.sampling_weights))
        return training_dataset(source, preprocessing, schedule, **options)

    monkeypatch.setattr("rfd_tf.runs.inputs.data.training_dataset", recorded)
    flags = ("--config.classifier.losses=('cross_entropy',)", "--config.epochs=1")
    assert train(tmp_path / "run", *flags, "--config.classifier.sampling=class_balanced") == 0
    ((labels, weights),) = drawn_by
    shares = np.bincount(labels, weights=weights) / weights.sum()
    np.testing.assert_allclose(shares, 0.1, rtol=0.01)  # beta = 0.9999 of a hundred images


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.classifier.losses=('ldam','focal')", "one of `classifier.losses` at a time"),
        ("--config.classifier.losses=('hinge',)", "hinge"),
        ("--config.classifier.sampling=some", "`classifier.sampling` must be"),
        ("--config.backbone.feature=conv9", "conv9"),
        ("--config.epochs=0", "`epochs` must be at least 1"),
        ("--config.validation.source=", "`validation.source` is empty"),
    ],
)
def test_bad_values(override, message, tmp_path, capsys):
    assert train(tmp_path / "run", override) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_is_no_config_of_an_evaluation(tmp_path, capsys):
    arguments = ["--model=none", "--protocol=knn", "--config=classify", f"--workdir={tmp_path}"]
    assert cli.main(["rfd", "evaluate", *arguments]) == 2
    assert "a config of `rfd train`" in capsys.readouterr().err


def test_localized_rotation_is_learnt_along(tmp_path, run):
    task = "--config.finetune.localized_rotation=('explicit',1.0)"
    assert train(tmp_path / "lorot", task, "--config.classifier.losses=('cross_entropy',)") == 0
    logged = history(tmp_path / "lorot")
    assert logged["localized_rotation_loss"][-1] < logged["localized_rotation_loss"][0]
    assert "localized_rotation_loss" not in history(run)
    assert not [name for name in logged if name.startswith("val_localized")]
    result = load_result(tmp_path / "lorot" / "evaluation.json")
    assert list(result.figures) == ["features"]
    assert keras.saving.load_model(tmp_path / "lorot" / "classifier.keras").output_shape == (None, 10)


@pytest.mark.parametrize(
    ("names", "loss"),
    [
        ("'rand_augment',", "cross_entropy"),
        ("'mixup',", "cross_entropy"),
        ("'cutmix',", "ldam_drw"),
        ("'mixup','cutmix'", "balanced_softmax"),
    ],
)
def test_it_learns_augmented_images(tmp_path, names, loss):
    flags = (f"--config.classifier.losses=('{loss}',)", "--config.preprocessing.rand_augment_ops=1")
    folder = tmp_path / "run"
    assert train(folder, *flags, f"--config.preprocessing.augment=({names})") == 0
    logged = history(folder)
    if loss != "ldam_drw":  # whose weights change
        assert logged["loss"][-1] < logged["loss"][0]
    assert load_result(folder / "evaluation.json").settings["preprocessing"]["augment"]
    with open_feature_model(str(folder)) as feature_model:  # what it says of its images is read again
        assert feature_model.info.preprocessing.augment


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.preprocessing.augment=('cutout',)"], "`augment` must be a tuple of some of"),
        (
            [
                "--config.preprocessing.augment=('mixup',)",
                "--config.finetune.localized_rotation=('explicit',0.1)",
            ],
            "must not mix images with `finetune.localized_rotation`",
        ),
        (
            ["--config.preprocessing.augment=('cutmix',)", "--config.strategy=multi_worker"],
            "each worker has a part",
        ),
        (["--config.preprocessing.mixup_alpha=-1.0"], "mixup_alpha=-1.0"),
    ],
)
def test_augment_that_makes_no_sense(tmp_path, capsys, overrides, message):
    assert train(tmp_path / "run", *overrides) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    "wanted", ["('sideways',0.1)", "('explicit',0.0)", "('explicit',)", "('explicit','x')"]
)
def test_localized_rotation_out_of_range(tmp_path, capsys, wanted):
    assert train(tmp_path / "run", f"--config.finetune.localized_rotation={wanted}") == 1
    assert "finetune.localized_rotation" in capsys.readouterr().err
