"""The devkit's files: real ones, and broken ones."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import VOC_CLASSES, VocDevkit, VocError, open_source
from rfd_tf.data.voc import read_annotation
from tests.data.devkits import annotation, write_devkit


@pytest.fixture
def devkit(tmp_path) -> Path:
    contents = {
        "000005": [("cat", (1, 1, 40, 30), False), ("dog", (3, 4, 10.5, 12), True)],
        "000007": [("dog", (5, 6, 5, 6), False), ("dog", (1, 2, 3, 4), True)],
        "000009": [],
    }
    return write_devkit(tmp_path / "VOC2007", contents, {"trainval": ["000007", "000005", "", "000009"]})


def test_order_boxes_and_targets(devkit):
    source = VocDevkit(devkit)
    assert source.names == ("000007", "000005", "000009")
    assert source.describe(1) == str(devkit / "JPEGImages" / "000005.jpg")
    assert source.fetch(2).numpy() == (devkit / "JPEGImages" / "000009.jpg").read_bytes()
    cat_and_dog = source.annotations[1]
    np.testing.assert_array_equal(cat_and_dog.boxes, [[0, 0, 39, 29], [2, 3, 9.5, 11]])
    assert [VOC_CLASSES[label] for label in cat_and_dog.labels] == ["cat", "dog"]
    assert cat_and_dog.difficult.tolist() == [False, True]
    assert source.annotations[2].boxes.shape == (0, 4)
    cat, dog = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")
    assert source.targets[:, [cat, dog]].tolist() == [[-1, 1], [1, 0], [-1, -1]]
    assert (np.delete(source.targets, [cat, dog], axis=1) == -1).all()
    assert source.labels is None
    assert open_source("voc_devkit", devkit, "trainval").names == source.names


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_real_files(test_data, split):
    source = VocDevkit(test_data / "VOCdevkit", split)
    assert len(source) == 150
    lists = source.root / "ImageSets" / "Main"
    for column, name in enumerate(VOC_CLASSES):
        lines = [line.split() for line in (lists / f"{name}_{split}.txt").read_text().splitlines()]
        assert [line[0] for line in lines] == list(source.names)
        assert [int(line[1]) for line in lines] == source.targets[:, column].tolist(), name
    for index in range(0, 150, 10):
        found = source.annotations[index]
        with Image.open(source.describe(index)) as image:
            assert image.size == (found.width, found.height)
        tree = ElementTree.parse(source.root / "Annotations" / f"{source.names[index]}.xml")
        assert len(tree.findall("object")) == len(found.boxes)
        widths = found.boxes[:, 2:] - found.boxes[:, :2]
        assert (widths >= 0).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (annotation(("cat", (1, 1, 41, 30), False)), r"cat; 1, 1, 41, 30\) is not within .* 40 x 30"),
        (annotation(("cat", (0, 1, 4, 3), False)), "not within"),
        (annotation(("cat", (9, 1, 4, 3), False)), "not within"),
        (annotation(("unicorn", (1, 1, 4, 3), False)), "'unicorn'"),
        (annotation(("cat", (1, "one", 4, 3), False)), "'one', no number"),
        (annotation(("cat", (1, "nan", 4, 3), False)), "'nan', no number"),
        (annotation()[:-20], "no well-formed XML"),
        ("", "no well-formed XML"),
        ("<annotation></annotation>", "no size/width"),
        ("<annotation><size><width>9</width></size></annotation>", "no size/height"),
        (annotation().replace("</annotation>", "<object></object></annotation>"), "no name in an <object>"),
        ('<!DOCTYPE a [<!ENTITY b "cat">]>' + annotation(("&b;", (1, 1, 4, 3), False)), "declares entities"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "cannot be read"),
    ],
)
def test_broken_annotations_are_named(devkit, content, message):
    path = devkit / "Annotations" / "000005.xml"
    path.write_text(content)
    with pytest.raises(VocError, match=message) as error:
        VocDevkit(devkit)
    assert str(path) in str(error.value)


def test_a_file_that_is_missing_is_named(devkit):
    (devkit / "JPEGImages" / "000005.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000005\.jpg \(1 of 3 missing"):
        VocDevkit(devkit)
    (devkit / "Annotations" / "000007.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"000007\.xml"):
        VocDevkit(devkit)
    with pytest.raises(FileNotFoundError, match=r"val\.txt; there are trainval"):
        VocDevkit(devkit.parent, "val")
    with pytest.raises(FileNotFoundError, match="is it a VOC devkit"):
        VocDevkit(devkit / "JPEGImages")


@pytest.mark.parametrize(
    ("lines", "message"),
    [("../../secret\n", "'../../secret'"), ("\n", "no pictures"), ("000005\n000005\n", "000005 twice")],
)
def test_broken_lists_are_named(devkit, lines, message):
    (devkit / "ImageSets" / "Main" / "trainval.txt").write_text(lines)
    with pytest.raises(VocError, match=message):
        VocDevkit(devkit)


def test_an_annotation_of_ten_megabytes_is_refused(devkit):
    path = devkit / "Annotations" / "000005.xml"
    path.write_text(" " * 10_000_001)
    with pytest.raises(VocError, match="10000001 bytes"):
        read_annotation(path)
