"""What may be extracted from, and what the images are called."""

import os

import numpy as np
import pytest

from rfd_tf.data import open_images
from rfd_tf.data.source import escaped, listing_digest
from rfd_tf.features import load_features
from tests.data.images import write
from tests.extraction.tiny import by_hand, run_extract


def test_folders(tmp_path):
    write(tmp_path, "x/2.jpg", "x/1.jpg", "y/deep/1.jpg")
    source = open_images(tmp_path)
    assert source.files == ("x/1.jpg", "x/2.jpg", "y/deep/1.jpg")
    assert source.labels.tolist() == [0, 0, 1]
    (tmp_path / "empty").mkdir()
    assert open_images(tmp_path).labels is None
    assert open_images(tmp_path / "y").files == ("deep/1.jpg",)


def test_lists(run, tmp_path):
    write(tmp_path / "pictures", "x/2.jpg", "x/1.jpg")
    (tmp_path / "list.txt").write_text("x/2.jpg 7\nx/none.jpg 0\nx/1.jpg 3\n")
    source = open_images(tmp_path / "list.txt", tmp_path / "pictures")
    assert source.labels.tolist() == [7, 0, 3]
    (tmp_path / "pictures" / "list.csv").write_text("x/2.jpg,7\nx/none.jpg,0\nx/1.jpg,3\n")
    skipped = run_extract(run, tmp_path / "pictures" / "list.csv", tmp_path / "out")
    assert [(image.index, image.path) for image in skipped] == [(1, "x/none.jpg")]
    features, index, paths, labels = load_features(tmp_path / "out", ["features"])
    assert index.tolist() == [0, 2]
    assert paths == ["x/2.jpg", "x/1.jpg"]
    assert labels.tolist() == [7, 3]
    np.testing.assert_allclose(features["features"], by_hand(run, source, index)["features"], atol=1e-5)


def test_npz(run, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype="uint8")
    np.savez(tmp_path / "a.npz", test_images=images, test_labels=np.arange(5))
    run_extract(run, tmp_path / "a.npz", tmp_path / "out")
    features, index, paths, labels = load_features(tmp_path / "out")
    assert index.tolist() == labels.tolist() == list(range(5))
    assert paths[3] == "a.npz[3]"
    expected = by_hand(run, open_images(tmp_path / "a.npz"), index)
    np.testing.assert_allclose(features["features"], expected["features"], atol=1e-5)
    np.savez(tmp_path / "two.npz", train_images=images, test_images=images[:2])
    with pytest.raises(ValueError, match="which array"):
        open_images(tmp_path / "two.npz")
    assert len(open_images(tmp_path / "two.npz", key="test_images")) == 2


def test_nothing_to_open(tmp_path):
    write(tmp_path, "1.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.npz").write_text("nothing")
    for location, error, message in (
        ("none", FileNotFoundError, "No images at"),
        ("empty", FileNotFoundError, "holds no image"),
        ("1.jpg", ValueError, "is one image"),
        ("broken.npz", ValueError, r"broken\.npz cannot be read"),
    ):
        with pytest.raises(error, match=message):
            open_images(tmp_path / location)


def test_unusual_names(run, tmp_path):
    names = [os.fsdecode(b"caf\xe9.jpg"), "caf\u00e9.jpg", "caf\\xe9.jpg", "new\nline.jpg"]
    folder = write(tmp_path / "p", *names)
    expected = {r"caf\xe9.jpg", "caf\u00e9.jpg", r"caf\\xe9.jpg", "new\nline.jpg"}
    for format in ("parquet", "npz"):
        run_extract(run, folder, tmp_path / format, format=format, outputs=("features",))
        assert set(load_features(tmp_path / format)[2]) == expected
    assert {escaped(name) for name in names} == expected


def test_listing_digest_follows_names_labels_and_order(tmp_path):
    write(tmp_path, "1.jpg", "2.jpg")
    digests = set()
    for text in ("1.jpg 0\n2.jpg 1", "2.jpg 1\n1.jpg 0", "1.jpg 1\n2.jpg 1", "1.jpg\n2.jpg", "1.jpg 0"):
        (tmp_path / "list.txt").write_text(text)
        digests.add(listing_digest(open_images(tmp_path / "list.txt")))
    assert len(digests) == 5
