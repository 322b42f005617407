import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import ArraySource, load_npz

IMAGES = np.arange(4 * 5 * 6 * 3, dtype="uint8").reshape(4, 5, 6, 3)
LABELS = np.array([0, 1, 1, 2])


def test_rows_are_the_indices():
    source = ArraySource(IMAGES, LABELS, name="file.npz")
    assert len(source) == 4
    assert source.num_classes == 3
    assert not source.encoded
    np.testing.assert_array_equal(source.fetch(tf.constant(2, tf.int64)), IMAGES[2])
    assert source.describe(2) == "file.npz[2]"


def test_grey_becomes_rgb():
    source = ArraySource(IMAGES[..., 0])
    np.testing.assert_array_equal(source.fetch(1), np.stack([IMAGES[1, ..., 0]] * 3, -1))


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (IMAGES.astype("float32"), None, None, "must be uint8. Received: float32"),
        (IMAGES[0, 0], None, None, "shape"),
        (np.zeros((2, 5, 6, 4), "uint8"), None, None, "shape"),
        (IMAGES[:0], None, None, "no image"),
        (IMAGES, LABELS[:3], None, "4 integers"),
        (IMAGES, LABELS / 2, None, "float64"),
        (IMAGES, LABELS, ["a", "b"], r"\[0, 2\). Received: 2"),
        (IMAGES, LABELS - 1, None, "Received: -1"),
    ],
)
def test_refused_arrays(images, labels, names, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(images, labels, names)


def test_npz(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, train_images=IMAGES, train_labels=LABELS, class_names=np.array(["a", "b", "c"]))
    source = load_npz(path)
    assert source.class_names == ("a", "b", "c")
    assert source.labels.tolist() == LABELS.tolist()
    assert source.describe(3) == f"{path}[3]"
    assert load_npz(path, labels_key=None).labels is None
    with pytest.raises(
        ValueError, match=r"data.npz: no array named 'x' .*class_names, train_images, train_labels"
    ):
        load_npz(path, images_key="x")


def test_npz_is_never_unpickled(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, train_images=np.array([{}, None], dtype=object), train_labels=LABELS)
    with pytest.raises(ValueError, match=r"data\.npz cannot be read"):
        load_npz(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_damaged_npz(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.npz cannot be read"):
        load_npz(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_npz(tmp_path / "nowhere.npz")


def test_plain_npy_is_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(ValueError, match=r"cannot be read as an .npz"):
        load_npz(tmp_path / "a.npy")


def test_real_cifar(test_data):
    source = load_npz(test_data / "cifar10_lt.npz", "test_images", "test_labels")
    assert len(source) == 10_000
    assert source.num_classes == 10
    assert np.bincount(source.labels).tolist() == [1000] * 10
