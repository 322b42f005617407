"""Any functional Keras model as `--model`: saved by Keras, with nothing of ours inside."""

import json
import logging

import keras
import numpy as np
import pytest
from PIL import Image

from rfd_tf import cli
from rfd_tf.commands.models import open_model
from rfd_tf.data import Preprocessing
from rfd_tf.extractors import open_extractor
from zoo.report import report_path

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
    extractor = open_model(str(path), given={"mean": "tf", "std": "0.5,0.25,0.5"})
    prepared = extractor.info.preprocessing
    assert (prepared.image_size, prepared.resize) == (SIDE, round(SIDE * 256 / 224))
    assert (prepared.mean, prepared.std) == ((0.5, 0.5, 0.5), (0.5, 0.25, 0.5))
    x = np.random.default_rng(0).normal(size=(3, SIDE, SIDE, 3)).astype("float32")
    expected = keras.tree.flatten(model(x))[-1]
    np.testing.assert_allclose(extractor(x, ["features"])["features"], expected, rtol=1e-5, atol=1e-6)
    assert (
        set(extractor.info.outputs)
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


def test_the_zoos_report_beside_a_converted_file_tells(tmp_path, caplog):
    _, path = _saved(tmp_path, "tensor", (32, 32, 3))
    report_path(path).write_text(json.dumps({"entry": "cifar_resnet20"}))
    caplog.set_level(logging.INFO)
    prepared = open_model(str(path)).info.preprocessing
    assert prepared.image_size == 32
    assert prepared.mean == pytest.approx((0.485, 0.456, 0.406))
    assert "zoo:cifar_resnet20" in caplog.text
    assert open_model(str(path), given={"mean": "unit"}).info.preprocessing.mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "does not tell how its images are prepared. Give --mean: one of imagenet, unit, tf"),
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
        open_extractor(tmp_path / "two.keras", preprocessing=prepared)


def test_a_config_without_preprocessing_is_named(tmp_path):
    _, path = _saved(tmp_path, "dict")
    (tmp_path / "config.json").write_text(json.dumps({"backbone": {"feature": "b"}}))
    with pytest.raises(ValueError, match=r"config\.json is not the config of a run: it has no field 'prepro"):
        open_model(str(path))
