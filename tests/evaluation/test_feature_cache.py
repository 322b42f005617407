import shutil

import numpy as np
import pytest

from rfd_tf.data import ArraySource, BadImageError, ImageFolder
from rfd_tf.evaluation import features
from rfd_tf.evaluation.features import Transform, cached_features
from rfd_tf.runs.images import ImageSet
from tests.data.images import write
from tests.evaluation.numpy_feature_model import PREPROCESSING, NumpyFeatureModel, random_images

IMAGES = random_images(23)
VALID = np.delete(np.arange(23), [3, 20])


def images_of(images=IMAGES, valid=VALID):
    return ImageSet(ArraySource(images, name="images"), PREPROCESSING, valid, [])


def cached(feature_model, folder, images=None, names=("features",), **options):
    return cached_features(feature_model, images or images_of(), names, folder, 4, **options)


@pytest.fixture
def expected():
    normalized = (IMAGES[VALID] / 255.0 - PREPROCESSING.mean) / PREPROCESSING.std
    return {"features": normalized.mean(axis=(1, 2)), "map": normalized}


def test_every_output_of_every_valid_image(tmp_path, expected):
    found = cached(NumpyFeatureModel(), tmp_path / "cache", names=("map", "features"))
    assert list(found) == ["map", "features"]
    for name, values in found.items():
        assert isinstance(values, np.memmap)
        assert not values.flags.writeable
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_finished_ones_are_read(tmp_path, expected):
    cached(NumpyFeatureModel(), tmp_path / "cache")
    again = NumpyFeatureModel()
    np.testing.assert_allclose(cached(again, tmp_path / "cache")["features"], expected["features"], atol=1e-5)
    assert again.images == 0


@pytest.mark.parametrize("saved_every", [0.0, 1e9])
def test_stopped_by_an_error_it_continues(tmp_path, saved_every, monkeypatch):
    monkeypatch.setattr(features, "_SAVED_EVERY", saved_every)

    def fail(batch):
        if batch == 3:
            raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError):
        cached(NumpyFeatureModel(before_batch=fail), tmp_path / "cache")
    rest = NumpyFeatureModel()
    resumed = cached(rest, tmp_path / "cache")["features"]
    assert rest.images == len(VALID) - 3 * 4
    np.testing.assert_array_equal(resumed, cached(NumpyFeatureModel(), tmp_path / "whole")["features"])


@pytest.mark.parametrize("saved_every", [0.0, 1e9])
def test_what_a_killed_process_leaves_is_continued(tmp_path, saved_every, monkeypatch):
    """A copy of the folder in the middle of a batch: what is there when the process dies at that moment."""
    monkeypatch.setattr(features, "_SAVED_EVERY", saved_every)
    folder, left = tmp_path / "cache", tmp_path / "left"

    def copy(batch):
        if batch == 4:
            shutil.copytree(folder, left)

    whole = cached(NumpyFeatureModel(before_batch=copy), folder)["features"]
    rest = NumpyFeatureModel()
    np.testing.assert_array_equal(cached(rest, left)["features"], whole)
    assert rest.images == (len(VALID) - 4 * 4 if saved_every == 0 else len(VALID))


def doubled(_name, values):
    return 2 * values


@pytest.mark.parametrize(
    "change",
    [
        {"feature_model": NumpyFeatureModel(factor=3.0)},
        {"images": images_of(random_images(23, seed=1))},
        {"images": images_of(valid=VALID[::-1])},
        {"names": ("features", "map")},
        {"transform": Transform("doubled", doubled)},
        {"dtype": "float16"},
    ],
)
def test_anything_else_is_made_anew(tmp_path, change):
    cached(NumpyFeatureModel(), tmp_path / "cache")
    change = {"feature_model": NumpyFeatureModel(), **change}
    found = cached(folder=tmp_path / "cache", **change)["features"]
    fresh = {**change, "feature_model": NumpyFeatureModel(change["feature_model"].factor)}
    np.testing.assert_array_equal(found, cached(folder=tmp_path / "fresh", **fresh)["features"])
    assert change["feature_model"].images == len(VALID)


def test_transform_may_change_the_shape(tmp_path, expected):
    found = cached(
        NumpyFeatureModel(),
        tmp_path / "cache",
        names=("map", "features"),
        transform=Transform(
            "max over space", lambda name, values: values.max(axis=(1, 2)) if name == "map" else values
        ),
    )
    np.testing.assert_allclose(found["map"], expected["map"].max(axis=(1, 2)), atol=1e-5)
    assert found["features"].shape == (len(VALID), 3)


def test_a_image_that_cannot_be_read_is_named(tmp_path):
    source = ImageFolder(write(tmp_path / "pictures", *(f"{c}/{i}.jpg" for c in "ab" for i in range(6))))
    (tmp_path / "pictures/b/2.jpg").write_text("no image")
    images = ImageSet(source, PREPROCESSING, np.arange(12), [])
    with pytest.raises(BadImageError, match=r"pictures/b/2\.jpg: "):
        cached(NumpyFeatureModel(), tmp_path / "cache", images)
    write(tmp_path / "pictures", "b/2.jpg")  # mended: another file, so all are taken again
    again = NumpyFeatureModel()
    assert cached(again, tmp_path / "cache", images)["features"].shape == (12, 3)
    assert again.images == 12


@pytest.mark.parametrize(("factor", "dtype"), [(np.nan, "float32"), (1e5, "float16")])
def test_values_that_are_not_finite_are_named(tmp_path, factor, dtype):
    images = np.zeros_like(IMAGES)
    images[:5] = np.round(255 * np.array(PREPROCESSING.mean))  # features of about 0
    bad = 0 if np.isnan(factor) else 5
    with pytest.raises(ValueError, match=rf"'features' of images\[{bad}\] has .* not finite in {dtype}"):
        cached(NumpyFeatureModel(factor), tmp_path / "cache", images_of(images), dtype=dtype)


def test_a_full_disk_is_an_error_at_the_beginning(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            cached(NumpyFeatureModel(), tmp_path / "cache")
    assert len(cached(NumpyFeatureModel(), tmp_path / "cache")["features"]) == len(VALID)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("conv9",)}, "no output 'conv9'"),
        ({"dtype": "int8"}, "dtype='int8'"),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        cached(NumpyFeatureModel(), tmp_path / "cache", **options)
