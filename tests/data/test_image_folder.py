import os

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import FlatFolder, ImageFolder, Subset
from rfd_tf.data.image_folder import kind_of_file, left_out_text
from tests.data.images import write


def torchvision_order(root):
    """What torchvision documents: classes by name; per class, folders then names in order."""
    found = []
    for label, name in enumerate(sorted(entry.name for entry in os.scandir(root) if entry.is_dir())):
        for folder, _, files in sorted(os.walk(os.path.join(root, name), followlinks=True)):
            found += [(os.path.join(folder, file), label) for file in sorted(files)]
    return found


def test_order_labels_and_bytes(tmp_path):
    write(tmp_path, "b/2.jpg", "b/10.JPEG", "a/z/deep.png", "a/B.bmp", "a/a.JPG", "a/c.jpeg", "B/one.jpg")
    source = ImageFolder(tmp_path)
    expected = torchvision_order(tmp_path)
    assert [source.describe(i) for i in range(len(source))] == [path for path, _ in expected]
    assert source.labels.tolist() == [label for _, label in expected]
    assert source.labels.dtype == np.int64
    assert source.class_names == ("B", "a", "b")
    assert source.num_classes == 3
    for i, (path, _) in enumerate(expected):
        with open(path, "rb") as file:
            assert source.fetch(tf.constant(i, tf.int64)).numpy() == file.read()


def test_files_that_are_no_images_are_left_out_and_counted(tmp_path, caplog):
    write(tmp_path, "a/1.jpg", "b/1.jpg", "loose.jpg")
    for name in ("a/notes.txt", "a/1.HEIC", "b/2.heic", "b/3.gif", "b/.DS_Store", ".hidden.gif", "README"):
        (tmp_path / name).write_text("x")
    (tmp_path / "a/folder.jpg").mkdir()
    source = ImageFolder(tmp_path)
    assert source.files == ("a/1.jpg", "b/1.jpg")
    expected = {
        ".heic": 2,
        ".gif": 1,
        ".txt": 1,
        "hidden": 2,
        "other ending": 1,
        "beside the class folders": 1,
    }
    assert source.left_out == Subset(source, [1]).left_out == expected
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert told == [
        f"Files left out of {tmp_path}: 2 .heic, 2 hidden, 1 .gif, 1 .txt, 1 beside the class folders, "
        "1 other ending"
    ]
    flat = FlatFolder(tmp_path)
    assert "loose.jpg" in flat.files
    del expected["beside the class folders"]
    assert flat.left_out == expected


def test_a_folder_of_nothing_else_says_what_it_holds(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.avif").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"holds no image.*; it holds 3 \.avif$"):
        FlatFolder(tmp_path)


def test_kinds_of_files():
    names = {"a.HEIC": ".heic", "a.b.mp4": ".mp4", ".x.jpg": "hidden", "a.7z": ".7z", "a": "other ending"}
    names |= dict.fromkeys(("frame.000123", "a.\udce9", "a.x\ny", "a." + "x" * 11, "a."), "other ending")
    assert {name: kind_of_file(name) for name in names} == names


def test_many_kinds_are_summed_up():
    kinds = {f".{letter}": 2 for letter in "abcdefghijklm"}
    assert left_out_text(kinds) == ", ".join(f"2 .{letter}" for letter in "abcdefghij") + ", 6 others"


def test_links_are_followed(tmp_path):
    write(tmp_path, "elsewhere/1.jpg", "root/b/2.jpg")
    (tmp_path / "root/a").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder(tmp_path / "root").files == ("a/1.jpg", "b/2.jpg")


def test_names_outside_ascii(tmp_path):
    write(tmp_path, "ä/é.jpg", "b/名.jpg")
    source = ImageFolder(tmp_path)
    assert source.files == ("b/名.jpg", "ä/é.jpg")
    assert source.fetch(tf.constant(1)).numpy() == (tmp_path / "ä/é.jpg").read_bytes()


def test_errors_name_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no class folder"):
        ImageFolder(tmp_path)
    write(tmp_path, "only/1.jpg")
    with pytest.raises(ValueError, match="one class folder only"):
        ImageFolder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no image"):
        ImageFolder(tmp_path)
    write(tmp_path, "empty/1.jpg")
    with pytest.raises(ValueError, match="on_error"):
        ImageFolder(tmp_path, on_error="ignore")


def test_unlabelled_accepts_one_class_and_keeps_the_order(tmp_path):
    write(tmp_path, "only/2.jpg", "only/1.jpg")
    (tmp_path / "empty").mkdir()
    source = ImageFolder(tmp_path, labelled=False)
    assert source.files == ("only/1.jpg", "only/2.jpg")
    assert source.labels is None
    assert source.class_names is None
    assert source.num_classes == 0


@pytest.mark.parametrize("kind", [ImageFolder, FlatFolder])
def test_undecodable_ending(tmp_path, kind):
    write(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a/0.tif").write_bytes(b"II*\0")
    with pytest.raises(ValueError, match=r"cannot decode .*a/0\.tif"):
        kind(tmp_path)
    assert kind(tmp_path, on_error="skip").files == ("a/0.tif", "a/1.jpg", "b/1.jpg")


def test_flat_folder_sorts_by_relative_path(tmp_path):
    write(tmp_path, "z.jpg", "a/9.jpg", "a-b/1.png", "a/10.jpg")
    source = FlatFolder(tmp_path)
    assert source.files == ("a-b/1.png", "a/10.jpg", "a/9.jpg", "z.jpg")
    assert source.labels is None
    assert source.describe(1) == str(tmp_path / "a/10.jpg")


def test_flat_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no image"):
        FlatFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FlatFolder(tmp_path / "nowhere")


def test_real_photos(test_data):
    source = ImageFolder(test_data / "photos/val")
    assert len(source) == 1000
    assert source.num_classes == 10
    assert [source.describe(i) for i in range(1000)] == [
        p for p, _ in torchvision_order(test_data / "photos/val")
    ]
