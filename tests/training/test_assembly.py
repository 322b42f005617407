import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import rfd_tf.configs.base
from rfd_tf.imbalance import effective_rotation_counts, rotation_instance_weights, view_margins
from rfd_tf.losses import LDAMLoss
from rfd_tf.models import alexnet
from rfd_tf.runs.build import build_backbone, specialize_for_device
from rfd_tf.runs.pretrain import build_model, pretrain, warn_of_slow_statistics
from rfd_tf.runs.rotation_probabilities import predict_out_of_sample

FOLDER = Path(rfd_tf.configs.base.__file__).parent
MODULES = {
    path.stem: f"rfd_tf.configs.{kind}.{path.stem}"
    for kind in ("pretrain", "classify")
    for path in sorted((FOLDER / kind).glob("[!_]*.py"))
} | {"base": "rfd_tf.configs.base"}


def config_named(name):
    return importlib.import_module(MODULES[name]).get_config()


def tiny_config():
    config = config_named("digits_lt")
    config.preprocessing.image_size = 8
    config.backbone.width = 4
    config.backbone.dense_width = 8
    return config


def test_pretraining_is_not_augmented_as_training_on_labels(tmp_path):
    config = tiny_config()
    config.preprocessing.augment = ("rand_augment",)
    for start in (pretrain, lambda *arguments: predict_out_of_sample(*arguments, folds=2)):
        with pytest.raises(ValueError, match=r"for training on labels .* Received: \('rand_augment',\)"):
            start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", MODULES)
def test_every_config_has_the_common_fields_and_its_command(name):
    config = config_named(name)
    for field in ("seed", "epochs", "batch_size", "strategy", "init"):
        assert field in config
    assert {"source", "root"} <= set(config.data)
    assert config.optimizer.milestones[-1][0] == config.epochs
    if name != "base":
        assert f"rfd train --config={name}" in importlib.import_module(MODULES[name]).__doc__


def test_the_imagenet_config_is_the_papers_recipe():
    config = config_named("imagenet")
    milestones = ((90, 1e-2), (130, 1e-3), (190, 1e-4), (210, 1e-5), (230, 1e-4), (245, 1e-5))
    assert config.optimizer.milestones == milestones
    optimizer = config.optimizer
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.9, True, 5e-4)
    assert (config.epochs, config.batch_size, config.backbone.name) == (245, 192, "alexnet")
    assert (config.method.num_negatives, config.method.temperature, config.method.momentum) == (
        4096,
        0.07,
        0.5,
    )
    assert (config.rotation_probabilities.gamma, config.rotation_probabilities.start_epoch) == (2.0, 210)
    assert config.method.loss_weights == (1.0, 1.0, 1.0)


def test_effective_rotation_counts_feed_the_margins():
    config = tiny_config()
    config.method.rotation_head = "ldam"
    weights = rotation_instance_weights(np.random.default_rng(0).uniform(size=(50, 4)))
    model = build_model(config, 50, 3, weights, synchronized=False)
    loss = model.rotation_loss
    assert isinstance(loss, LDAMLoss)
    np.testing.assert_allclose(loss.class_counts, effective_rotation_counts(weights))
    assert loss.margins[0] == loss.margins.min() < loss.margins.max() == pytest.approx(config.ldam.max_margin)
    np.testing.assert_array_equal(model.instance_weights.numpy(), weights)


def test_without_probabilities_the_four_rotations_count_alike():
    config = tiny_config()
    config.method.rotation_head = "ldam"
    loss = build_model(config, 50, 3, None, synchronized=False).rotation_loss
    assert loss.class_counts == [50.0] * 4


@pytest.mark.parametrize(
    ("form", "class_margin"), [("group", 0), ("image", 0), ("none", 0), ("rotation", 0.5)]
)
def test_the_form_of_the_margins(form, class_margin):
    config = tiny_config()
    config.method.rotation_head, config.ldam.margins = "ldam", form
    weights = rotation_instance_weights(np.random.default_rng(0).uniform(size=(50, 4)))
    model = build_model(config, 50, 3, weights, synchronized=False)
    assert model.rotation_loss.margins.max() == pytest.approx(class_margin)
    assert model.rotation_task.view_margins == view_margins(weights, form, 0.5)


@pytest.mark.parametrize(
    ("form", "message"), [("view", "ldam.margins.*'view'"), ("group", "path"), ("image", "path")]
)
def test_margins_that_cannot_be_made(form, message):
    config = tiny_config()
    config.method.rotation_head, config.ldam.margins = "ldam", form
    with pytest.raises(ValueError, match=message):
        build_model(config, 50, 3, None, synchronized=False)


@pytest.mark.parametrize("resumed", [False, True])
def test_init_sets_the_backbone_unless_a_checkpoint_will(tmp_path, resumed):
    config = tiny_config()
    other = build_backbone(config)
    other.set_weights([weight + 1 for weight in other.get_weights()])
    other.save(tmp_path / "init.keras")
    config.init = str(tmp_path / "init.keras")
    backbone = build_model(config, 50, 3, None, synchronized=False, resumed=resumed).backbone
    same = [np.array_equal(*pair) for pair in zip(backbone.get_weights(), other.get_weights(), strict=True)]
    assert all(same) is not resumed


@pytest.mark.parametrize(
    ("momentum", "steps", "warned"),
    [(0.99, 100, "momentum 0.99) will keep 37 %"), (0.99, 1000, ""), (0.9, 100, ""), (0.9, 20, "keep 12 %")],
)
def test_statistics_that_will_not_settle_are_warned_of(momentum, steps, warned, caplog):
    inputs = keras.Input((4, 4, 3))
    norm = keras.layers.BatchNormalization(momentum=momentum)
    network = keras.Model(inputs, keras.Sequential([norm])(inputs))
    warn_of_slow_statistics(network, steps)
    assert (warned in caplog.text) if warned else not caplog.records
    norm.moving_mean.assign([1.0, 0.0, 0.0])  # as of published weights
    caplog.clear()
    warn_of_slow_statistics(network, steps)
    assert not caplog.records


def test_the_rate_follows_the_milestones():
    config = tiny_config()
    model = build_model(config, 50, 3, None, synchronized=False)
    schedule = keras.optimizers.schedules.deserialize(model.optimizer.get_config()["learning_rate"])
    first, second, _ = config.optimizer.milestones
    assert float(schedule(first[0] * 3 - 1)) == pytest.approx(first[1])
    assert float(schedule(first[0] * 3)) == pytest.approx(second[1])


@pytest.mark.parametrize("name", ["resnet8", "alexnet"])
def test_the_feature_to_split_is_among_the_default_ones(name):
    config = importlib.import_module("rfd_tf.configs.base").get_config()
    config.backbone.name, config.preprocessing.image_size = name, 64
    backbone = build_backbone(config)
    assert config.backbone.feature in backbone.output
    config.backbone.feature = "pool"
    if name == "resnet8":
        assert "fc_block" not in build_backbone(config).output


@pytest.mark.parametrize("devices", [[], ["GPU:0"]])
def test_how_layers_compute_is_decided_by_device(monkeypatch, devices):
    models = {compiled: alexnet((63, 63, 3), ["pool1"]) for compiled in (False, True)}
    for compiled, model in models.items():
        model.compile("sgd", jit_compile=compiled)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices)
    for model in models.values():
        specialize_for_device(model)
        assert "call" in vars(model.get_layer("conv1_bn"))
        assert ("convolution_op" in vars(model.get_layer("conv1_conv"))) == bool(devices)
        assert ("call" in vars(model.get_layer("pool1"))) == (bool(devices) and model.jit_compile)
