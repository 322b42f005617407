import json
import os

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import (
    ArraySource,
    BadImageError,
    FlatFolder,
    ImageFolder,
    Preprocessing,
    Subset,
    find_bad_images,
    first_bad_image,
    training_indices,
    valid_indices,
)
from tests.data.datasets import training_dataset
from tests.data.images import encoded, random_image, write

BAD = ["a/dangling.jpg", "a/folder.jpg", "a/half.jpg", "a/text.jpg", "a/zero.jpg", "b/half.png", "b/scan.tif"]


@pytest.fixture
def source(tmp_path):
    write(tmp_path, "a/1.jpg", "a/folder.jpg", "b/2.png", "b/3.jpg", "c/4.bmp")
    (tmp_path / "a/zero.jpg").touch()
    (tmp_path / "a/text.jpg").write_text("this is not an image")
    (tmp_path / "a/dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    for path, kind in (("a/half.jpg", "JPEG"), ("b/half.png", "PNG")):
        content = encoded(random_image(200, 200), kind)
        (tmp_path / path).write_bytes(content[: len(content) // 2])
    (tmp_path / "b/scan.tif").write_bytes(encoded(random_image(), "TIFF"))
    source = ImageFolder(tmp_path, on_error="skip")
    (tmp_path / "a/folder.jpg").unlink()  # became a folder after it was listed
    (tmp_path / "a/folder.jpg").mkdir()
    return source


def test_each_bad_image_has_its_reason(source):
    found = {source.files[index]: reason for index, reason in find_bad_images(source).items()}
    assert list(found) == BAD
    assert "empty" in found["a/zero.jpg"]
    assert "No such file" in found["a/dangling.jpg"]
    assert "directory" in found["a/folder.jpg"]
    assert "Unknown image file format" in found["a/text.jpg"]
    assert "Invalid JPEG data" in found["a/half.jpg"]
    assert not any("{{" in reason or "\n" in reason or "[Op:" in reason for reason in found.values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    write(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "2.jpg").chmod(0)
    assert "denied" in find_bad_images(FlatFolder(tmp_path))[1]


def test_chosen_indices_only(source):
    good = [i for i, file in enumerate(source.files) if file not in BAD]
    half = source.files.index("a/half.jpg")
    assert find_bad_images(source, good) == {}
    assert first_bad_image(source, good) is None
    assert list(find_bad_images(source, [good[0], half])) == [half]


def test_a_failed_pipeline_is_explained_with_the_path(source):
    dataset = training_dataset(source, Preprocessing(8, resize=8), batch_size=4, seed=0, epochs=1)
    with pytest.raises(tf.errors.OpError):
        list(dataset)
    suspects = training_indices(len(source), batch_size=4, seed=0, start_step=0, num_steps=2).ravel()
    error = first_bad_image(source, suspects)
    assert isinstance(error, BadImageError)
    assert str(error).split(": ")[0] in {f"{source.root}/{file}" for file in BAD}


def test_valid_indices_are_found_once_and_cached(source, tmp_path):
    cache = tmp_path / "run/bad.json"
    valid, skipped = valid_indices(source, cache)
    assert [source.files[i] for i in valid] == ["a/1.jpg", "b/2.png", "b/3.jpg", "c/4.bmp"]
    assert valid.dtype == np.int64
    assert [path for path, _ in skipped] == [str(source.root / file) for file in BAD]
    (tmp_path / "b/3.jpg").write_text("broken since")
    again, again_skipped = valid_indices(source, cache)
    np.testing.assert_array_equal(again, valid)
    assert again_skipped == skipped
    assert len(valid_indices(source)[0]) == 3


def test_a_cache_of_other_images_is_not_used(source, tmp_path):
    cache = tmp_path / "bad.json"
    valid_indices(Subset(source, [source.files.index("a/1.jpg")]), cache)
    assert json.loads(cache.read_text())["bad"] == []
    assert len(valid_indices(source, cache)[0]) == 4


def test_a_damaged_cache_is_made_anew(source, tmp_path):
    cache = tmp_path / "bad.json"
    cache.write_text("{")
    assert len(valid_indices(source, cache)[0]) == 4


def test_nothing_usable(tmp_path):
    (tmp_path / "zero.jpg").touch()
    with pytest.raises(BadImageError, match=r"None of the 1 images.*zero\.jpg: .*empty"):
        valid_indices(FlatFolder(tmp_path))


def test_arrays_are_never_bad():
    valid, skipped = valid_indices(ArraySource(np.zeros((3, 2, 2, 3), "uint8")))
    assert valid.tolist() == [0, 1, 2]
    assert skipped == []


def test_training_with_skipped_images(source):
    valid, _ = valid_indices(source)
    dataset = training_dataset(
        source, Preprocessing(8, resize=8), batch_size=4, seed=0, epochs=2, valid_indices=valid
    )
    for batch in dataset.as_numpy_iterator():
        assert sorted(batch["index"]) == valid.tolist()
