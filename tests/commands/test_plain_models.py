"""Any functional Keras model as `--model`: saved by Keras, with nothing of ours inside."""

import json
import logging

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf import cli
from rfd_tf.cli.models import open_model
from rfd_tf.data import Preprocessing
from rfd_tf.features import open_feature_model, save_keras
from rfd_tf.models import create_backbone
from tests.zoo.released import resnet_state, save_torch
from zoo.verification import report_path

SIDE = 12


def _saved(folder, outputs, shape=(SIDE, SIDE, 3)):
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    maps = keras.layers.Conv2D(4, 3, name="maps")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D(name="mean")(maps)
    model = keras.Model(
        inputs, {"tensor": pooled, "list": [maps, pooled], "dict": {"a": maps, "b": pooled}}[outputs]
    )
    path = folder / "plain.keras"
    model.save(path)
    return model, path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(6):
        (folder / f"c{number % 2}").mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (14, 14, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"c{number % 2}" / f"{number}.png")
    return folder


@pytest.mark.parametrize("outputs", ["tensor", "list", "dict"])
def test_its_last_output_is_the_feature(outputs, tmp_path):
    model, path = _saved(tmp_path, outputs)
    feature_model = open_model(str(path), given={"mean": "tf", "std": "0.5,0.25,0.5"})
    prepared = feature_model.info.preprocessing
    assert (prepared.image_size, prepared.resize) == (SIDE, round(SIDE * 256 / 224))
    assert (prepared.mean, prepared.std) == ((0.5, 0.5, 0.5), (0.5, 0.25, 0.5))
    x = np.random.default_rng(0).normal(size=(3, SIDE, SIDE, 3)).astype("float32")
    expected = keras.tree.flatten(model(x))[-1]
    np.testing.assert_allclose(feature_model(x, ["features"])["features"], expected, rtol=1e-5, atol=1e-6)
    assert (
        set(feature_model.info.outputs)
        == {
            "tensor": {"features"},
            "list": {"features", "maps"},
            "dict": {"features", "a"},
        }[outputs]
    )


def test_extract_and_evaluate(images, tmp_path, capsys):
    _, path = _saved(tmp_path, "tensor", (None, None, 3))
    prepared = ["--image_size=10", "--resize=11", "--mean=unit", "--std=unit"]
    out = tmp_path / "features"
    command = ["rfd", "extract", f"--model={path}", f"--images={images}", f"--out={out}", "--format=npz"]
    assert cli.main([*command, *prepared]) == 0
    with np.load(out / "features-00000-of-00001.npz") as shard:
        found = shard["features"]
    pixels = np.stack([np.asarray(Image.open(p)) for p in sorted(images.rglob("*.png"))])
    recipe = Preprocessing(10, "random_crop", 11, mean=(0, 0, 0), std=(1, 1, 1))
    inputs = np.stack([recipe.eval_image(one) for one in pixels])
    expected = keras.saving.load_model(path)(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    command = ["rfd", "evaluate", f"--model={path}", "--protocol=knn", "--config=evaluate_folder"]
    sources = [f"--config.{role}.root={images}" for role in ("data", "validation")]
    sources += [f"--config.{role}.split=" for role in ("data", "validation")]
    assert (
        cli.main([*command, *sources, f"--workdir={tmp_path / 'knn'}", "--config.knn.k=(2,)", *prepared]) == 0
    )
    assert "features, k=2" in capsys.readouterr().out


@pytest.fixture
def converted(tmp_path):
    """What `rfd zoo convert` writes of a CIFAR ResNet."""
    checkpoint, path = tmp_path / "resnet20.th", tmp_path / "resnet20.keras"
    save_torch(checkpoint, resnet_state(), nest="state_dict")
    command = ["rfd", "zoo", "convert", "cifar_resnet20", f"--from_file={checkpoint}", f"--out={path}"]
    assert cli.main([*command, "--heads"]) == 0
    return checkpoint, path


def test_a_converted_file_is_what_the_zoo_entry_is(converted, images, caplog):
    checkpoint, path = converted
    caplog.set_level(logging.INFO)
    feature_model, entry = open_model(str(path)), open_model(f"zoo:cifar_resnet20={checkpoint}")
    assert "zoo:cifar_resnet20): resized to 32 x 32 pixels" in caplog.text
    assert feature_model.info == entry.info
    pixels = np.stack([np.asarray(Image.open(p)) for p in sorted(images.rglob("*.png"))])
    prepared = np.stack([feature_model.info.preprocessing.eval_image(one) for one in pixels])
    for name, values in entry(prepared).items():
        np.testing.assert_allclose(feature_model(prepared)[name], values, rtol=1e-5, atol=1e-5)


def test_flags_go_before_the_report(converted):
    _, path = converted
    prepared = open_model(str(path), given={"mean": "pixels", "resize": 36}).info.preprocessing
    assert (prepared.train, prepared.image_size, prepared.resize) == ("random_crop", 32, 36)
    assert prepared.mean == (0, 0, 0)
    assert prepared.std == open_model(str(path)).info.preprocessing.std


def test_a_folded_file_keeps_the_entry(converted, tmp_path):
    _, path = converted
    folded = tmp_path / "folded.keras"
    assert cli.main(["rfd", "zoo", "fold", f"--from_file={path}", f"--out={folded}"]) == 0
    assert open_model(str(folded)).info.preprocessing == open_model(str(path)).info.preprocessing


def test_a_report_that_is_of_another_model(tmp_path):
    _, path = _saved(tmp_path, "tensor", (32, 32, 3))
    report_path(path).write_text(json.dumps({"entry": "cifar_resnet20"}))
    with pytest.raises(ValueError, match="not a network of zoo:cifar_resnet20"):
        open_model(str(path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"does not tell how its images are prepared: .*\. Give --mean: one of imagenet, unit, tf"),
        ({"mean": "imagenet"}, "Give --std"),
        ({"mean": "0.5,0.5", "std": "tf"}, "`mean` must be one of .*Received: mean='0.5,0.5'"),
        ({"mean": "tf", "std": "tf"}, "images of any size: give --image_size"),
    ],
)
def test_what_is_missing_is_named(given, message, tmp_path):
    _, path = _saved(tmp_path, "tensor", (None, None, 3))
    with pytest.raises(ValueError, match=message):
        open_model(str(path), given=given)


def test_flags_for_a_model_that_tells_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--mean is for a \.keras file that does not tell"):
        open_model(str(tmp_path), given={"mean": "tf"})


def test_other_kinds_of_models_are_refused_in_words(tmp_path):
    prepared = Preprocessing(8, mean=(0, 0, 0), std=(1, 1, 1), resize=8)
    inputs = [keras.Input((8, 8, 3)), keras.Input((2,))]
    pooled = keras.layers.GlobalAveragePooling2D()(inputs[0])
    keras.Model(inputs, keras.layers.Concatenate()([pooled, inputs[1]])).save(tmp_path / "two.keras")
    with pytest.raises(ValueError, match=r"two\.keras: a model takes one batch of images"):
        open_feature_model(tmp_path / "two.keras", preprocessing=prepared)
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    keras.Model(pixels, pooled).save(tmp_path / "pixels.keras")
    with pytest.raises(ValueError, match=r"pixels\.keras: a model takes images of floats, not uint8"):
        open_feature_model(tmp_path / "pixels.keras", preprocessing=prepared)


def test_a_sequential_model_with_any_name_and_a_layer_as_map(tmp_path):
    layers = [keras.layers.Conv2D(4, 3, name="conv"), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="my net (1)")
    model.save(tmp_path / "x.keras")
    feature_model = open_model(str(tmp_path / "x.keras"), ["conv"], given={"mean": "tf", "std": "tf"})
    assert feature_model.info.name == "my_net__1_"
    assert feature_model.info.outputs == {"features": (4,), "conv": (6, 6, 4)}


@pytest.fixture
def run_without_preprocessing(tmp_path):
    backbone = create_backbone("resnet8", (16, 16, 3), ["block1", "fc_block", "pool"], width=4, dense_width=8)
    backbone.save(tmp_path / "backbone.keras")
    (tmp_path / "config.json").write_text(json.dumps({"backbone": {"feature": "fc_block"}}))
    return backbone, tmp_path


@pytest.mark.parametrize("location", [".", "backbone.keras"])
def test_a_run_whose_config_lacks_preprocessing_is_named(run_without_preprocessing, location, capsys):
    _, run = run_without_preprocessing
    with pytest.raises(ValueError, match=r"config\.json has no field 'preprocessing'"):
        open_feature_model(run / location)
    command = ["rfd", "evaluate", f"--model={run / location}", "--protocol=knn", "--config=evaluate_folder"]
    assert cli.main([*command, f"--workdir={run / 'knn'}"]) == 1
    assert "config.json has no field 'preprocessing'. Give --mean: one of imagenet" in capsys.readouterr().err


@pytest.mark.parametrize("location", [".", "backbone.keras"])
def test_flags_say_what_a_runs_config_lacks(run_without_preprocessing, location):
    backbone, run = run_without_preprocessing
    feature_model = open_model(str(run / location), given={"mean": "tf", "std": "tf"})
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    expected = np.asarray(backbone(x)["fc_block"])
    found = feature_model(x)
    np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["invariant"], expected[:, 4:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"config\.json is not the config of a run \("),
        ('{"preprocessing": {"image_size": 12}}', r"has no field 'backbone\.feature'"),
        ('{"backbone": [3]}', r"its field backbone is \[3\]"),
        (
            '{"backbone": {"feature": "b"}, "preprocessing": {"image_size": "12"}}',
            r"config\.json is not the config of a run \(preprocessing: its image_size is '12'\)",
        ),
        (
            '{"backbone": {"feature": "b"}, "preprocessing": {"image_size": 12, "colour": 1}}',
            r"config\.json is not the config of a run .*'colour'",
        ),
    ],
)
def test_damaged_configs_are_named(config, message, tmp_path):
    _, path = _saved(tmp_path, "dict")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        open_model(str(path))


def test_another_programs_config_is_passed_over(tmp_path):
    _, path = _saved(tmp_path, "tensor")
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    assert open_model(str(path), given={"mean": "tf", "std": "tf"}).info.outputs == {"features": (4,)}


def test_an_export_beside_any_config(tmp_path):
    """Such as a fine-tuned network in the folder of its evaluation."""
    _, path = _saved(tmp_path, "tensor")
    opened = open_model(str(path), given={"mean": "tf", "std": "tf"})
    save_keras(opened, tmp_path / "model.keras")
    (tmp_path / "config.json").write_text('{"preprocessing": {}}')
    assert open_model(str(tmp_path / "model.keras")).info == opened.info


def test_report(images, tmp_path, capsys):
    _, path = _saved(tmp_path, "tensor")
    page = tmp_path / "page.html"
    command = ["rfd", "report", f"--model={path}", f"--images={images}", f"--validation_images={images}"]
    assert cli.main([*command, f"--out={page}", "--mean=tf", "--std=tf"]) == 0
    printed = capsys.readouterr().out
    assert "not the folder of a run with its history" in printed
    assert "no head that tells rotations" in printed
    found = page.read_text()
    assert "How images are prepared" in found
    assert "Weighted kNN, k = 6" in found  # each image is among those searched: all are right
    assert ">100.0 %<" in found
    assert "untrained control" in found
    assert "Rotation told from" not in found  # by a training's history
    assert "pretrained without labels" not in found


def test_report_of_unlabelled_images_alone(images, tmp_path, capsys):
    _, path = _saved(tmp_path, "tensor")
    page = tmp_path / "page.html"
    command = ["rfd", "report", f"--model={path}", f"--images={images / 'c0'}", f"--out={page}"]
    assert cli.main([*command, "--mean=tf", "--std=tf"]) == 0
    assert "needs an evaluation by classes, or labelled" in capsys.readouterr().out
    assert page.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=a.keras", "--out=b.html"], "--images is needed with --model"),
        (["--model=a.keras", "--images=c"], "--out is needed with --model"),
        (["--model=a.keras", "--workdir=d"], "not both"),
        (["--workdir=d", "--images=c"], "--images goes with --model"),
        (["--workdir=d", "--mean=tf"], "--mean goes with --model"),
        (["--model=a.keras", "--images=c", "--out=b.html", "--projector"], "--projector goes with --workdir"),
        ([], "--workdir is needed, or --model"),
    ],
)
def test_unfit_flags_of_a_report(flags, message, capsys):
    assert cli.main(["rfd", "report", *flags]) == 2
    assert message in capsys.readouterr().err
