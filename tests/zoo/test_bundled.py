"""The weights that come with the package."""

import keras
import numpy as np
import pytest

import rfd_tf
import zoo
from rfd_tf.models import create_backbone
from zoo.downloader import sha256_of

CLASSIFIER = "ldam_drw_resnet14_cifar10_lt"
BUNDLED = [name for name in zoo.list() if zoo.info(name).bundled]


def test_there_are_some():
    assert {"rfd_resnet14_cifar10_lt", CLASSIFIER} <= set(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_file_is_what_the_entry_says(name):
    entry = zoo.info(name)
    path = zoo.download(name)
    assert path == entry.bundled
    assert path.stat().st_size == entry.size < 4e6
    assert sha256_of(path) == entry.sha256
    assert "it comes with the package" in zoo.model_card(name)


@pytest.mark.parametrize("name", BUNDLED)
def test_loads_as_a_network_and_as_a_feature_model(name):
    size = zoo.info(name).preprocessing.input_size[0]
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), "uint8")
    expected = rfd_tf.load(f"zoo:{name}").features(pixels)
    prepared = zoo.preprocessing(name)(pixels)
    np.testing.assert_allclose(zoo.load(name)(prepared)["features"], expected, atol=1e-5)
    pool = zoo.load(name, feature_names=["pool"])(prepared)
    assert list(pool) == ["pool"]
    assert pool["pool"].shape[0] == 3
    assert np.std(expected, axis=0).max() > 1e-3  # tells images apart


def test_the_classifier_gives_cosines_of_named_classes():
    opened = rfd_tf.load(f"zoo:{CLASSIFIER}")
    assert opened.info.class_names[::9] == ("airplane", "truck")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), "uint8")
    model = zoo.load(CLASSIFIER)
    outputs = {
        name: np.asarray(value) for name, value in model(zoo.preprocessing(CLASSIFIER)(pixels)).items()
    }
    np.testing.assert_array_equal(outputs["features"], outputs["pool"])
    (kernel,) = model.get_layer("classifier").get_weights()
    unit = outputs["pool"] / np.linalg.norm(outputs["pool"], axis=1, keepdims=True)
    expected = unit @ (kernel / np.linalg.norm(kernel, axis=0))
    assert expected.shape == (3, len(opened.info.class_names))
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)
    assert all(weight.dtype == "float32" for weight in model.weights)  # however they are stored


def test_a_classifier_from_its_preset(tmp_path):
    classifier = zoo.ImageClassifier.from_preset(CLASSIFIER)
    assert classifier.class_names[::9] == ("airplane", "truck")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 40, 3), "uint8")
    scores = classifier.predict(pixels, verbose=0)
    expected = zoo.load(CLASSIFIER)(zoo.preprocessing(CLASSIFIER)(pixels))["logits"]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    classifier.save(tmp_path / "classifier.keras")
    again = keras.saving.load_model(tmp_path / "classifier.keras")
    np.testing.assert_array_equal(again.predict(pixels, verbose=0), scores)
    assert again.class_names == classifier.class_names
    with pytest.raises(zoo.ZooError, match="rfd_resnet20_digits has no classifier"):
        zoo.ImageClassifier.from_preset("rfd_resnet20_digits")


def test_the_classifier_tells_real_images(test_data):
    images = np.load(test_data / "cifar10_lossless_test.npz")
    logits = zoo.load(CLASSIFIER)(zoo.preprocessing(CLASSIFIER)(images["images"]))["logits"]
    right = np.argmax(logits, axis=1) == images["labels"]
    assert right.mean() > 0.65  # 68.8 % on the 10,000 decoded JPEGs; these 932 images are lossless


def test_starts_a_training():
    backbone = create_backbone("resnet14", (32, 32, 3), ("pool", "fc_block"), width=32)
    zoo.resolve_init("zoo:rfd_resnet14_cifar10_lt", backbone)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    given = zoo.load("rfd_resnet14_cifar10_lt")(images)
    found = backbone(images)
    np.testing.assert_allclose(found["pool"], given["pool"], atol=1e-5)
    np.testing.assert_allclose(found["fc_block"], given["features"], atol=1e-5)


def test_a_training_starts_from_the_classifiers_backbone():
    backbone = create_backbone("resnet14", (32, 32, 3), ("block3", "pool"), width=32)
    zoo.resolve_init(f"zoo:{CLASSIFIER}", backbone)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(backbone(images)["pool"], zoo.load(CLASSIFIER)(images)["features"], atol=1e-5)


def test_is_not_converted(tmp_path):
    with pytest.raises(zoo.ZooError, match="is a Keras file as it is"):
        zoo.convert("rfd_resnet14_cifar10_lt", tmp_path / "a.pth", tmp_path / "b.keras")
    with pytest.raises(zoo.ZooError, match="leave out `heads`"):
        zoo.load("rfd_resnet14_cifar10_lt", heads=True)


def test_preprocessing_is_the_entrys():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), "uint8")
    expected = zoo.info("rfd_alexnet_imagenet").preprocessing(pixels)
    np.testing.assert_allclose(zoo.preprocessing("rfd_alexnet_imagenet")(pixels), expected, atol=1e-5)
    assert zoo.preprocessing("rfd_alexnet_imagenet")(pixels[:, :, :100]).shape == (2, 224, 224, 3)
    with pytest.raises(zoo.ZooError, match="is data"):
        zoo.preprocessing("rfd_rotation_probabilities_imagenet")
