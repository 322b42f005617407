"""The devkit's files: real ones, and broken ones."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rfd_tf.data import VOC_CLASSES, VocData, VocDevkit, VocError, clipping_note, open_source, open_voc
from rfd_tf.data.voc import read_annotation
from tests.data.devkits import annotation, write_devkit
from tests.data.images import encoded, random_image


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
        (annotation()[:-20], "is not well-formed XML"),
        ("", "is not well-formed XML"),
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


STOCKS = {
    "a1": [("tallstock", (1, 1, 40, 30), False), ("headstock", (3, 4, 10, 12), True)],
    "a2": [("headstock", (5, 6, 15, 16), False)],
}


@pytest.fixture
def stocks(tmp_path) -> Path:
    """Two classes that VOC does not have; only one of them is on the list `val`."""
    return write_devkit(tmp_path / "own", STOCKS, {"train": ["a1", "a2"], "val": ["a2"]})


def test_classes_of_ones_own(stocks):
    found = VocDevkit(stocks, "train", classes=("*",))
    assert found.class_names == ("headstock", "tallstock")  # sorted
    named = VocDevkit(stocks, "train", classes=("tallstock", "headstock", "nobody"))
    assert named.class_names == ("tallstock", "headstock", "nobody")  # in the order given
    assert [of.labels.tolist() for of in found.annotations] == [[1, 0], [0]]
    assert [of.labels.tolist() for of in named.annotations] == [[0, 1], [1]]
    assert found.targets.tolist() == [[0, 1], [1, -1]]
    assert named.targets.tolist() == [[1, 0, -1], [-1, 1, -1]]
    part = open_voc(VocData("voc_devkit", stocks, "train", limit=1, classes=["tallstock", "headstock"]))
    assert (part.class_names, part.targets.tolist()) == (("tallstock", "headstock"), [[1, 0]])
    assert open_source("voc_devkit", stocks, "val", classes=("*",)).class_names == ("headstock",)


def test_a_class_that_is_not_among_them_is_named(stocks):
    with pytest.raises(
        VocError, match=r"a1\.xml: object 1 is a 'tallstock', which is not a class of VOC: name"
    ):
        VocDevkit(stocks, "train")
    with pytest.raises(VocError, match=r"'tallstock', which is not one of the 1 classes \(headstock\)"):
        VocDevkit(stocks, "train", classes=VocDevkit(stocks, "val", classes=("*",)).class_names)
    for name in ("", "a/b", "..", "a\\b", "a\nb", " a", "x" * 101, 3):
        with pytest.raises(ValueError, match="`classes` must be names"):
            VocDevkit(stocks, "train", classes=("cat", name))
    with pytest.raises(ValueError, match="'cat' twice"):
        VocDevkit(stocks, "train", classes=("cat", "dog", "cat"))
    with pytest.raises(ValueError, match=r"has VOC's classes. Received: classes=\('cat',\)"):
        open_voc(VocData("voc_tfds", classes=("cat",)))
    (stocks / "Annotations" / "a2.xml").write_text(annotation(("../../a", (1, 1, 4, 3), False)))
    with pytest.raises(VocError, match=r"cannot be classes: .*'\.\./\.\./a'"):
        VocDevkit(stocks, "train", classes=("*",))
    (stocks / "Annotations" / "a2.xml").write_text(annotation())
    with pytest.raises(VocError, match="There is no object in the 1 annotations"):
        VocDevkit(stocks, "val", classes=("*",))


TAGS = """<annotation verified="yes"><folder>x</folder><filename>a2.png</filename>
<size><width>40.0</width><height>30</height></size><segmented>Unspecified</segmented>
<object><bndbox><xmin>3.25</xmin><xmax>10.5</xmax><ymin>4.0</ymin><ymax>12.75</ymax></bndbox>
<name> headstock </name><pose>Unspecified</pose><truncated>0.37</truncated>{difficult}</object>
</annotation>"""


@pytest.mark.parametrize(
    ("tag", "difficult"),
    [
        ("", False),
        ("<difficult/>", False),
        ("<difficult>Unspecified</difficult>", False),
        ("<difficult>0.0</difficult>", False),
        ("<difficult>false</difficult>", False),
        ("<difficult>1</difficult>", True),
        ("<difficult>True</difficult>", True),
    ],
)
def test_tags_as_other_tools_write_them(stocks, tag, difficult):
    (stocks / "Annotations" / "a2.xml").write_text(TAGS.format(difficult=tag))
    (stocks / "JPEGImages" / "a2.jpg").unlink()
    (stocks / "JPEGImages" / "a2.PNG").write_bytes(encoded(random_image(30, 40), "PNG"))
    source = VocDevkit(stocks, "val", classes=("*",))
    (found,) = source.annotations
    assert found.difficult.tolist() == [difficult]
    np.testing.assert_allclose(found.boxes, [[2.25, 3, 9.5, 11.75]])
    assert source.describe(0).endswith("a2.PNG")


@pytest.mark.parametrize(
    ("box", "clipped", "overhang"),
    [
        ((0, 0, 20, 15), (1, 1, 20, 15), 1),  # counted from 0
        ((1, 1, 41, 30), (1, 1, 40, 30), 1),  # one pixel outside
        ((2, 3, 40.4, 30.25), (2, 3, 40, 30), 0.4),
        ((-90, 2, 5, 9), (1, 2, 5, 9), 91),
        ((2, 3, 4, 5), (2, 3, 4, 5), 0),
    ],
)
def test_boxes_beyond_the_image_are_clipped_where_that_is_asked_for(stocks, box, clipped, overhang):
    path = stocks / "Annotations" / "a2.xml"
    path.write_text(annotation(("headstock", (9, 9, 10, 10), False), ("headstock", box, False)))
    found = read_annotation(path, ("headstock",), "clip")
    np.testing.assert_allclose(found.boxes, np.subtract([(9, 9, 10, 10), clipped], 1))
    np.testing.assert_allclose(found.overhang, [0, overhang], rtol=1e-6)
    if overhang:
        with pytest.raises(VocError, match=r"a2\.xml: the box of object 2 .*boxes='clip' would clip it"):
            read_annotation(path, ("headstock",))
    else:
        assert read_annotation(path, ("headstock",), "").overhang is None


@pytest.mark.parametrize("box", [(9, 1, 4, 3), (1, 9, 4, 3), (41, 1, 50, 30), (1, -5, 3, 0.5)])
def test_boxes_with_nothing_of_the_image_are_refused_all_the_same(stocks, box):
    path = stocks / "Annotations" / "a2.xml"
    path.write_text(annotation(("headstock", box, False)))
    for boxes in ("strict", "clip"):
        with pytest.raises(VocError, match=r"is not within the image of 40 x 30 pixels$"):
            read_annotation(path, ("headstock",), boxes)
    with pytest.raises(ValueError, match="boxes='cut'"):
        VocDevkit(stocks, "train", boxes="cut")


def test_clipped_boxes_are_counted(stocks, caplog):
    for name, left in (("a1", 0), ("a2", -2.5)):
        text = annotation(("headstock", (left, 1, 9, 9), False), ("headstock", (2, 2, 3, 3), False))
        (stocks / "Annotations" / f"{name}.xml").write_text(text)
    told = "of 4 boxes, in 2 of 2 images of own, reached beyond their image, by up to 3.5 pixels, and were"
    source = open_voc(VocData(root=stocks, split="train", classes=("*",), boxes="clip"))
    assert f"2 {told} clipped to it" in caplog.text
    assert clipping_note(source) in caplog.text
    caplog.clear()
    open_voc(VocData(root=stocks, split="train", classes=("*",), boxes="clip", limit=1))
    assert "1 of 2 boxes, in 1 of 1 images" in caplog.text
    assert clipping_note(open_voc(VocData(root=stocks, split="train", classes=("*",), boxes="clip", limit=1)))
    (stocks / "Annotations" / "a2.xml").write_text(annotation(*STOCKS["a2"]))
    caplog.clear()
    assert not clipping_note(open_voc(VocData(root=stocks, split="val", classes=("*",), boxes="clip")))
    assert not caplog.text


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
    [("../../secret\n", "'../../secret'"), ("\n", "no images"), ("000005\n000005\n", "000005 twice")],
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
