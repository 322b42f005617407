import importlib
import json

import numpy as np
import pytest

from rfd_tf.configs.evaluate import base
from rfd_tf.data import Preprocessing
from rfd_tf.evaluation.evaluate import evaluate
from rfd_tf.evaluation.experiment import open_experiment, training_preprocessing
from rfd_tf.runs.provenance import stopwatch
from rfd_tf.runs.run import Run
from tests.data.images import write
from tests.evaluation.numpy_feature_model import NumpyFeatureModel, random_images


@pytest.fixture
def config():
    return base.get_config()


def folders(config, tmp_path, training="aabbbc", test="abc"):
    for name, classes in (("train", training), ("val", test)):
        write(tmp_path / "data", *(f"{name}/{label}/{i}.jpg" for i, label in enumerate(classes)))
    config.data.root = config.validation.root = str(tmp_path / "data")
    return config


def opened(config, tmp_path, **options):
    return open_experiment(Run(config, tmp_path / "work"), NumpyFeatureModel(), **options)


def test_classes_and_counts(config, tmp_path):
    experiment = opened(folders(config, tmp_path), tmp_path)
    assert experiment.class_names == ("a", "b", "c")
    assert experiment.class_counts.tolist() == [2, 3, 1]
    assert experiment.test.labels.tolist() == [0, 1, 2]
    assert experiment.test.preprocessing == experiment.feature_model.info.preprocessing


def test_a_test_folder_without_some_classes_keeps_their_numbers(config, tmp_path):
    experiment = opened(folders(config, tmp_path, test="cca"), tmp_path)
    assert experiment.test.labels.tolist() == [0, 2, 2]
    assert experiment.class_names == ("a", "b", "c")


def test_a_class_of_the_test_images_alone_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"class 'd' that the training images do not have \(a, b, c\)"):
        opened(folders(config, tmp_path, test="abd"), tmp_path)


def test_label_fraction_leaves_labels_out(config, tmp_path):
    config.label_fraction = 0.34
    experiment = opened(folders(config, tmp_path, training="aaaaaabbbc"), tmp_path)
    assert experiment.class_counts.tolist() == [2, 1, 1]
    assert len(experiment.training.labels) == 4


def test_long_tail(config, tmp_path):
    config.data.long_tail.profile, config.data.long_tail.ratio = "exp", 4.0
    experiment = opened(folders(config, tmp_path, training="aaaabbbbcccc"), tmp_path)
    assert experiment.class_counts.tolist() == [4, 2, 1]


def test_more_classes_in_unnamed_test_arrays(config, tmp_path):
    arrays = {"train_images": random_images(4), "train_labels": [0, 1, 1, 0]}
    np.savez(tmp_path / "a.npz", **arrays, test_images=random_images(2), test_labels=[0, 2])
    config.data.source = config.validation.source = "npz"
    config.data.root = config.validation.root = str(tmp_path / "a.npz")
    config.validation.split = "test"
    with pytest.raises(ValueError, match="2 classes; the test images have a label 2"):
        opened(config, tmp_path)


def test_rotations_need_no_labels(config, tmp_path):
    folders(config, tmp_path)
    config.data.source = config.validation.source = "flat_folder"
    config.rotation.training_images = 4
    experiment = opened(config, tmp_path, labels="rotations")
    assert experiment.class_counts.tolist() == [4] * 4
    assert experiment.training.valid.tolist() == [0, 1, 3, 5]
    with pytest.raises(ValueError, match=r"training images .* have no labels"):
        opened(config, tmp_path)


def test_nothing_to_measure_on(config, tmp_path):
    folders(config, tmp_path).validation.source = ""
    with pytest.raises(ValueError, match=r"`validation.source` is empty"):
        opened(config, tmp_path)


def test_augmentation_is_the_configs_for_images_as_the_model_sees_them(config):
    center = Preprocessing(224, "random_resized_crop", resize=256)
    whole = Preprocessing(32, "pad_crop", flip=False, mean=(0.1, 0.2, 0.3))
    assert training_preprocessing(config, center) == Preprocessing(224, "random_crop", resize=256)
    assert training_preprocessing(config, whole) == whole
    config.preprocessing.train, config.preprocessing.resize = "random_crop", 40
    assert training_preprocessing(config, whole).resize == 40
    config.preprocessing.resize = 0
    with pytest.raises(ValueError, match=r"needs a `preprocessing\.resize`"):
        training_preprocessing(config, whole)
    config.preprocessing.train, config.preprocessing.flip = "resize", False
    assert not training_preprocessing(config, center).flip


def test_colors_are_the_configs_whatever_the_model_was_trained_with(config):
    pretrained = Preprocessing(32, "pad_crop", color_jitter=(0.4,) * 4, grayscale=0.2, blur=0.5)
    assert training_preprocessing(config, pretrained) == Preprocessing(32, "pad_crop")
    config.preprocessing.color_jitter, config.preprocessing.grayscale = (0.1, 0.2, 0.3, 0.4), 0.5
    expected = Preprocessing(32, "pad_crop", color_jitter=(0.1, 0.2, 0.3, 0.4), grayscale=0.5)
    assert training_preprocessing(config, pretrained) == expected


def test_augment_is_the_configs(config):
    trained = Preprocessing(32, "pad_crop", augment=("cutmix",))
    assert training_preprocessing(config, trained) == Preprocessing(32, "pad_crop")
    config.preprocessing.augment, config.preprocessing.mixup_alpha = ("mixup", "rand_augment"), 0.4
    config.preprocessing.rand_augment_ops, config.preprocessing.rand_augment_magnitude = 3, 0.25
    assert training_preprocessing(config, trained) == Preprocessing(
        32,
        "pad_crop",
        augment=("mixup", "rand_augment"),
        rand_augment_ops=3,
        rand_augment_magnitude=0.25,
        mixup_alpha=0.4,
    )


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        (
            "knn",
            {"augment": ("rand_augment",)},
            "for what trains on images.*computed once",
        ),
        ("rotation", {"augment": ("mixup",)}, "for what trains on images"),
        ("linear", {"augment": ("rand_augment",), "input": "cached"}, "with input='images'"),
        ("voc_classification", {"augment": ("rand_augment",), "method": "svm"}, "for what trains on images"),
        ("voc_classification", {"augment": ("cutmix",)}, "of one class each"),
        ("finetune", {"augment": ("mixup",), "rotation": ("explicit", 0.1)}, "`finetune.localized_rotation`"),
        ("finetune", {"augment": ("mixup",), "strategy": "multi_worker"}, "each worker has a part"),
    ],
)
def test_augment_that_has_no_effect_or_makes_no_sense(config, tmp_path, protocol, changes, message):
    """Told before anything is opened, trained or written."""
    config.preprocessing.augment = changes["augment"]
    config.input, config.strategy = changes.get("input", "images"), changes.get("strategy", "one_device")
    config.finetune.localized_rotation = changes.get("rotation", ())
    config.voc = {"method": changes.get("method", "finetune")}
    with pytest.raises(ValueError, match=rf"`preprocessing\.augment` .*{message}"):
        evaluate(protocol, config, tmp_path / "run", pytest.fail)
    assert not (tmp_path / "run").exists()


def test_the_stopwatch_adds_up_runs(tmp_path):
    path = tmp_path / "seconds.txt"
    path.write_text("100.0\n")
    with stopwatch(path) as seconds:
        assert 100 <= seconds() < 200
    assert 100 <= float(path.read_text()) < 200


@pytest.mark.parametrize("name", ["linear_imagenet", "linear_places205", "nonlinear_imagenet"])
def test_the_published_recipes(name):
    config = importlib.import_module(f"rfd_tf.configs.evaluate.{name}").get_config()
    assert config.batch_size == 192
    assert config.optimizer.to_dict() == {
        "milestones": config.optimizer.milestones,
        "warmup_epochs": 0,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "clip_norm": 0.0,
    }
    assert config.optimizer.milestones[-1] == (config.epochs, 8e-5)
    json.dumps(config.to_dict())
