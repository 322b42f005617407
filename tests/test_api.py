"""`rfd_tf.pretrain`, `load`, `evaluate` and the others: from arrays, files and datasets to figures."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import rfd_tf
from rfd_tf import api, data

PUBLIC = [
    "DeferredReweighting",
    "LDAMLoss",
    "RotationDecoupling",
    "__version__",
    "callbacks",
    "classify",
    "create_backbone",
    "data",
    "distribution",
    "evaluate",
    "evaluation",
    "export",
    "extract",
    "imbalance",
    "layers",
    "load",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "pretrain",
    "rotations",
    "train_rotation_probabilities",
]
SMALL = {
    "backbone": "resnet8",
    "image_size": 16,
    "batch_size": 16,
    "tensorboard": False,
    "checkpoint_steps": 0,
}


def test_public_names():
    assert dir(rfd_tf) == PUBLIC
    for name in PUBLIC:
        assert getattr(rfd_tf, name) is not None


def test_import_is_light():
    code = "import sys, rfd_tf; print([m for m in ('keras', 'tensorflow', 'rfd_tf.api') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def digits():
    """(images uint8 [96, 16, 16, 3], labels)."""
    source = data.digits("train")
    pixels = source.images[:96].repeat(16 // source.images.shape[1], 1)
    pixels = pixels.repeat(16 // source.images.shape[2], 2)
    pixels = pixels if pixels.ndim == 4 else np.repeat(pixels[..., None], 3, axis=3)
    return pixels, np.asarray(source.labels[:96])


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "run"
    return rfd_tf.pretrain(digits[0], out, epochs=2, **SMALL)


def test_pretraining_gives_a_run_that_goes_on(run, digits):
    assert (run / "backbone.keras").is_file()
    assert len((run / "history.csv").read_text().splitlines()) == 3
    before = (run / "backbone.keras").stat().st_mtime_ns
    dataset = tf.data.Dataset.from_tensor_slices(digits[0])  # the same images
    assert rfd_tf.pretrain(dataset, run, epochs=2, **SMALL) == run
    assert (run / "backbone.keras").stat().st_mtime_ns >= before
    with pytest.raises(ValueError, match="other images"):
        rfd_tf.pretrain(digits[0][:80], run, epochs=2, **SMALL)


def test_features_of_arrays_files_and_folders_agree(run, digits, tmp_path):
    model = rfd_tf.load(run)
    expected = model.features(digits[0][:6])
    assert expected.shape == (6, *model.info.outputs["features"])
    for number, pixels in enumerate(digits[0][:6]):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    np.testing.assert_allclose(model.features(tmp_path), expected, atol=1e-5)
    np.testing.assert_allclose(model.features(paths, batch_size=4), expected, atol=1e-5)
    np.testing.assert_allclose(model.features(str(paths[3])), expected[3:4], atol=1e-5)
    assert model.features(paths, "pool").shape == (6, 64)
    with pytest.raises(ValueError, match="no output 'fc9'"):
        model.features(paths, "fc9")


def test_features_name_a_bad_image(run, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(data.BadImageError, match=r"bad\.png"):
        rfd_tf.load(run).features([tmp_path / "bad.png"])


def test_evaluate_extract_and_export(run, digits, tmp_path):
    pixels, labels = digits
    result = rfd_tf.evaluate(run, "knn", (pixels[:64], labels[:64]), (pixels[64:], labels[64:]))
    assert result.figures["features, k=20"].top1 > 0.2
    assert (run / "evaluations" / "knn" / "evaluation.json").is_file()
    assert "top-1" in str(result)
    np.savez(tmp_path / "images.npz", images=pixels[:8])
    assert rfd_tf.extract(run, tmp_path / "images.npz", tmp_path / "out", dtype="float32") == []
    assert (tmp_path / "out" / "manifest.json").is_file()
    rfd_tf.export(run, tmp_path / "exported", ("keras",), num_images=2)
    exported = rfd_tf.load(tmp_path / "exported" / "model.keras")
    np.testing.assert_allclose(
        exported.features(pixels[:4]), rfd_tf.load(run).features(pixels[:4]), atol=1e-4
    )


def test_classify_starts_from_a_run(run, digits, tmp_path):
    pixels, labels = digits
    result = rfd_tf.classify(
        (pixels[:64], labels[:64]),
        tmp_path / "classifier",
        (pixels[64:], labels[64:]),
        init=run,
        epochs=2,
        batch_size=16,
    )
    assert 0 <= result.figures["features"].top1 <= 1
    assert rfd_tf.load(tmp_path / "classifier").info.preprocessing.image_size == 16


def test_a_model_in_memory_is_told_how_to_prepare_images(digits):
    import keras

    inputs = keras.Input((16, 16, 3))
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, {"pool": pooled})
    with pytest.raises(ValueError, match="give `mean` and `std`"):
        rfd_tf.load(model)
    opened = rfd_tf.load(model, mean="imagenet", std=(0.2, 0.2, 0.2), resize=16)
    normalized = (digits[0][:3] / 255.0 - np.array([0.485, 0.456, 0.406])) / 0.2
    np.testing.assert_allclose(
        opened.features(digits[0][:3]), model(normalized.astype("float32"))["pool"], atol=1e-4
    )


def test_fields_by_name():
    config = api._config(
        "pretrain", "image_folder", 10, {"method": {"temperature": 0.5}, "optimizer.momentum": 0.8}
    )
    assert config.method.temperature == 0.5
    assert config.optimizer.momentum == 0.8
    assert config.optimizer.milestones == ((5, 1e-2), (8, 1e-3), (10, 1e-4))
    assert (config.epochs, config.ldam.start_epoch) == (10, 8)
    for fields, message in (
        ({"temprature": 1}, "no field 'temprature'"),
        ({"image_size": 1}, "did you mean 'preprocessing.image_size'"),
        ({"batch_size": "many"}, "batch_size='many'"),
    ):
        with pytest.raises(ValueError, match=message):
            api._config("pretrain", "image_folder", None, fields)
    with pytest.raises(ValueError, match="`config` must be one of"):
        api._config("pretrain", "imagnet", None, {})
    with pytest.raises(ValueError, match="`epochs` must be at least 1"):
        api._config("pretrain", "image_folder", 0, {})


@pytest.mark.parametrize(("epochs", "milestones"), [(1, ((1, 1e-4),)), (2, ((1, 1e-2), (2, 1e-4)))])
def test_a_short_schedule_keeps_its_end(epochs, milestones):
    config = api._config("pretrain", "image_folder", epochs, {})
    assert config.optimizer.milestones == milestones


def test_what_are_no_images_is_refused_before_anything_is_written(tmp_path):
    for images, message in (
        (np.zeros((4, 16, 16, 3), "float32"), "uint8"),
        (tf.data.Dataset.from_tensor_slices(np.zeros((0, 16, 16, 3), "uint8")), "without images"),
        (tf.data.Dataset.from_tensors(np.zeros((16, 16, 3), "uint8")).repeat(), "without end"),
        (tmp_path / "nowhere", "No images at"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            rfd_tf.pretrain(images, tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_rotation_probabilities(digits, tmp_path):
    found = rfd_tf.train_rotation_probabilities(
        digits[0][:48], tmp_path / "prob.dat", folds=2, epochs=1, **SMALL
    )
    assert found.shape == (48, 4)
    np.testing.assert_allclose(data.load_rotation_probabilities(tmp_path / "prob.dat", 48), found, atol=1e-6)


def test_a_backbone_of_ones_own(digits, tmp_path):
    import keras

    def network(seed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((16, 16, 3))
        x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(inputs)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    settings = {**SMALL, "backbone": network(0), "epochs": 1, "backbone.dense_width": 16}
    before = settings["backbone"].get_weights()
    run = rfd_tf.pretrain(digits[0][:48], tmp_path / "run", **settings)
    assert all(map(np.array_equal, before, settings["backbone"].get_weights()))
    assert rfd_tf.load(run).features(digits[0][:2]).shape == (2, 16)
    assert rfd_tf.pretrain(digits[0][:48], run, **settings) == run
    with pytest.raises(ValueError, match="another backbone"):
        rfd_tf.pretrain(digits[0][:48], run, **{**settings, "backbone": network(1)})
