import subprocess
import sys

import numpy as np
import pytest

from rfd_tf.data import open_source
from tests.data.images import write


def test_image_folder_splits(tmp_path):
    write(tmp_path, "data/train/a/1.jpg", "data/train/b/1.jpg", "data/val/a/2.jpg", "data/val/b/2.jpg")
    assert open_source("image_folder", tmp_path / "data").files == ("a/1.jpg", "b/1.jpg")
    assert open_source("image_folder", tmp_path / "data", "val").files == ("a/2.jpg", "b/2.jpg")
    assert open_source("image_folder", tmp_path / "data/val").files == ("a/2.jpg", "b/2.jpg")
    assert open_source("image_folder", tmp_path / "data", labelled=False).labels is None
    with pytest.raises(FileNotFoundError, match="split='test'"):
        open_source("image_folder", tmp_path / "data", "test")


def test_flat_folder(tmp_path):
    write(tmp_path, "1.jpg")
    assert len(open_source("flat_folder", tmp_path)) == 1


def test_npz_keys_follow_the_split(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, test_images=np.zeros((2, 4, 4, 3), "uint8"), test_labels=np.arange(2), y=np.array([1, 0]))
    assert open_source("npz", path, "test").labels.tolist() == [0, 1]
    assert open_source("npz", str(path), "test", labels_key="y").labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match="train_images"):
        open_source("npz", path)


def test_digits():
    assert len(open_source("digits")) == 1352
    assert len(open_source("digits", split="validation")) == 445


def test_errors():
    with pytest.raises(
        ValueError, match=r"image_folder, .*digits, prepared, voc_devkit, voc_tfds\. Received: kind='csv'"
    ):
        open_source("csv")
    with pytest.raises(ValueError, match="needs a `root`"):
        open_source("npz")
    with pytest.raises(ValueError, match="`name`"):
        open_source("tfds")


def test_optional_packages_are_imported_when_needed():
    lazy = ("sklearn.datasets", "tensorflow_datasets")
    code = f"import sys, rfd_tf.data; print([m for m in {lazy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
