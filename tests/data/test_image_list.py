import os

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import ImageList, find_bad_images, open_source, places205
from tests.data.images import decoded, write


def listed(tmp_path, text, name="train.txt", **options):
    (tmp_path / name).write_text(text)
    return ImageList(tmp_path, tmp_path / name, **options)


@pytest.fixture
def images(tmp_path):
    return write(
        tmp_path,
        "a/1.jpg",
        "a/2.jpg",
        "b/1.png",
        "b/two words.jpg",
        "c/x, y.jpg",
        "val/b/1.png",
        "val/c/d/1.png",
    )


@pytest.mark.parametrize(
    ("text", "files", "labels", "class_names"),
    [
        ("b/1.png 1\na/1.jpg 0\n", ("b/1.png", "a/1.jpg"), [1, 0], ("a", "b")),
        ("b/two words.jpg 1\r\na/1.jpg\t0\r\n\r\n", ("b/two words.jpg", "a/1.jpg"), [1, 0], ("a", "b")),
        ('a/1.jpg,0\n"c/x, y.jpg", 1', ("a/1.jpg", "c/x, y.jpg"), [0, 1], ("a", "c")),
        ("\ufeffb/1.png\n./a/2.jpg\nc/x, y.jpg\n", ("b/1.png", "a/2.jpg", "c/x, y.jpg"), None, None),
        ("val/b/1.png 1\nval/c/d/1.png 0\n", ("val/b/1.png", "val/c/d/1.png"), [1, 0], ("c/d", "b")),
        ("a/1.jpg 0\na/2.jpg 1\n", ("a/1.jpg", "a/2.jpg"), [0, 1], None),  # classes share a folder
        ("a/1.jpg 0\nb/1.png 0\n", ("a/1.jpg", "b/1.png"), [0, 0], None),  # a class of two folders
    ],
)
def test_rows(images, text, files, labels, class_names):
    source = listed(images, text)
    assert source.files == files
    assert source.class_names == class_names
    assert labels is None if source.labels is None else source.labels.tolist() == labels
    for index, file in enumerate(files):
        content = source.fetch(tf.constant(index, tf.int64)).numpy()
        np.testing.assert_array_equal(decoded(content), decoded((images / file).read_bytes()))
        assert source.describe(index) == str(images / file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("a/1.jpg 0\na/2.jpg\n", r"train\.txt:2: a row must be a path, a space and an integer"),
        ("a/1.jpg 0\na/2.jpg one\n", r"train\.txt:2: .* 'a/2.jpg one'"),
        ("a/1.jpg 0\na/2.jpg 0.5\n", r"train\.txt:2: "),
        ("a/1.jpg,0\nc/x, y.jpg,1\n", r"train\.txt:2: a row must be a path, a comma and an integer"),
        ("a/1.jpg 0\n\nb/1.png -1\n", r"train\.txt:3: a label must not be negative"),
        ("a/1.jpg 0\nb/1.png 2\n", r"without a gap\. Line 2 has 2, and no line has 1"),
        ("a/1.jpg 1\nb/1.png 2\n", "no line has 0"),
        ("a/1.jpg 0\nb/1.png 1\na/1.jpg 0\n", r"train\.txt:3: 'a/1.jpg' is already in line 1"),
        ("./a/1.jpg\na/1.jpg\n", r"train\.txt:2: 'a/1.jpg' is already in line 1"),
        ("a/1.jpg\n../other/a/1.jpg\n", r"train\.txt:2: a path must be relative"),
        ("/etc/passwd 0\n", r"train\.txt:1: a path must be relative"),
        ("a/1.jpg 0\n 1\n", r"train\.txt:2: "),
        ("a/1.jpg\na/\0.jpg\n", r"train\.txt:2: .* is not a path"),
    ],
)
def test_broken_lists_are_refused_by_line(images, text, message):
    with pytest.raises(ValueError, match=message):
        listed(images, text)


def test_missing_files(images):
    with pytest.raises(FileNotFoundError, match="No list of images"):
        ImageList(images, images / "none.txt")
    (images / "list.txt").write_text("a.jpg")
    with pytest.raises(FileNotFoundError, match="No folder of images"):
        ImageList(images / "none", images / "list.txt")
    text = "a/1.jpg 0\nb/none.jpg 1\n"
    with pytest.raises(FileNotFoundError, match=r"lists 'b/none.jpg', .*1 of the 2 files"):
        listed(images, text)
    source = listed(images, text, on_error="skip")
    assert "No such file" in find_bad_images(source)[1]
    with pytest.raises(FileNotFoundError, match="2 of the 2"):
        listed(images, "x/1.jpg\nx/2.jpg", on_error="skip")


def test_what_the_sample_misses_is_found_when_read(tmp_path):
    names = [f"{i:03}.jpg" for i in range(250)]
    write(tmp_path, *names)
    (tmp_path / names[1]).unlink()
    source = listed(tmp_path, "\n".join(names))
    assert list(find_bad_images(source)) == [1]


def test_options(images):
    source = listed(images, "a/1.jpg 0\nb/1.png 2\n", every_class=False)
    assert source.num_classes == 3
    assert source.class_names is None
    write(images, "photo 1", "photo 2")
    assert listed(images, "photo 1\nphoto 2\n", labelled=False).files == ("photo 1", "photo 2")


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    write(tmp_path, name)
    (tmp_path / "train.txt").write_bytes(b"caf\xe9.jpg 0\n")
    source = open_source("image_list", tmp_path)
    assert source.files == (name,)
    assert not find_bad_images(source)


def test_lists_by_split(images):
    (images / "val.csv").write_text("b/1.png,0\n")
    assert open_source("image_list", images, "val").files == ("b/1.png",)
    assert open_source("image_list", images, list_file=images / "val.csv").files == ("b/1.png",)
    with pytest.raises(FileNotFoundError, match=r"train\.txt"):
        open_source("image_list", images)


@pytest.fixture
def places(tmp_path):
    folder = "data/vision/torralba/deeplearning/images256"
    write(tmp_path / folder, "a/abbey/2.jpg", "a/abbey/1.jpg", "b/bakery/shop/1.jpg", "a/abbey/3.jpg")
    lists = tmp_path / "trainvalsplit_places205"
    lists.mkdir()
    (lists / "train_places205.csv").write_text("b/bakery/shop/1.jpg 1\na/abbey/2.jpg 0\na/abbey/1.jpg 0\n")
    (lists / "val_places205.csv").write_text("a/abbey/3.jpg 0\n")
    return tmp_path


def test_places205(places):
    source = open_source("places205", places)
    assert source.files == ("b/bakery/shop/1.jpg", "a/abbey/2.jpg", "a/abbey/1.jpg")
    assert source.labels.tolist() == [1, 0, 0]
    assert source.class_names == ("a/abbey", "b/bakery/shop")
    assert source.name == "places205/train"
    assert not find_bad_images(source)
    assert open_source("places205", places, "val").labels.tolist() == [0]
    with pytest.raises(ValueError, match="train, val"):
        places205(places, "test")
    list_file = places / "trainvalsplit_places205" / "val_places205.csv"
    list_file.write_text("a/abbey/3.jpg\n")
    with pytest.raises(ValueError, match=r"val_places205\.csv:1: a row must be"):
        places205(places, "val")
    list_file.unlink()
    with pytest.raises(FileNotFoundError, match=r"val_places205\.csv"):
        places205(places, "val")
