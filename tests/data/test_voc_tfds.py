"""TFDS's `voc` against the devkit's files that it was built from."""

import dataclasses
import importlib

import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import VOC_CLASSES, VocData, VocDevkit, VocError, VocTfds, clipping_note, open_voc
from tests.data.devkits import write_devkit
from tests.data.images import encoded, random_image
from tests.data.test_tfds_source import FORMATS, contents

mini_voc = pytest.importorskip("tests.data.mini_voc", reason="needs tensorflow_datasets")

LISTS = {
    "train": ["000003", "000007"],
    "val": ["000001", "000012", "000020"],
    "trainval": ["000001", "000003", "000007", "000012", "000020"],
    "test": ["000002", "000004"],
}


def _objects(rng) -> list:
    """Boxes at every place, the image's corners among them, and one with a fraction."""
    found = [
        ("dog", (1, 1, 40, 30), False),
        ("cat", (40, 30, 40, 30), True),
        ("sofa", (3.5, 2, 9.3, 4), False),
    ]
    for _ in range(40):
        (x1, x2), (y1, y2) = (np.sort(rng.integers(1, side + 1, 2)) for side in (40, 30))
        found.append((VOC_CLASSES[rng.integers(20)], (x1, y1, x2, y2), bool(rng.integers(2))))
    return found


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    root = tmp_path_factory.mktemp("archive") / "VOCdevkit"
    rng = np.random.default_rng(0)
    for year in ("2007", "2012"):
        images = {name: _objects(rng) for name in [*LISTS["trainval"], *LISTS["test"]]}
        images["000007"] = []
        write_devkit(root / f"VOC{year}", images, LISTS)
    return root


@pytest.fixture(scope="module")
def prepared(devkit, tmp_path_factory):
    mini_voc.FOLDER["devkit"] = devkit.parent
    roots = {}
    for file_format in FORMATS:
        roots[file_format] = tmp_path_factory.mktemp(file_format)
        for year in ("2007", "2012"):
            builder = mini_voc.MiniVoc(config=year, data_dir=roots[file_format], file_format=file_format)
            builder.download_and_prepare()
    return roots


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("split", LISTS)
def test_equals_the_devkit(prepared, devkit, file_format, split):
    mine = VocTfds(prepared[file_format], split, name="mini_voc")
    theirs = VocDevkit(devkit, split)
    assert mine.names == theirs.names
    assert contents(mine) == contents(theirs)
    assert (mine.labels, mine.class_names) == (None, VOC_CLASSES)
    np.testing.assert_array_equal(mine.targets, theirs.targets)
    for ours, expected in zip(mine.annotations, theirs.annotations, strict=True):
        for field in dataclasses.fields(expected):
            value, wanted = getattr(ours, field.name), getattr(expected, field.name)
            np.testing.assert_array_equal(value, wanted, err_msg=field.name)
            assert getattr(value, "dtype", None) == getattr(wanted, "dtype", None)
    assert mine.describe(0).endswith(f"({theirs.names[0]}.jpg)")


def test_open_voc_takes_either(prepared, devkit, monkeypatch):
    module = importlib.import_module("rfd_tf.data.open_source")
    monkeypatch.setattr(
        module, "VocTfds", lambda *place, **options: VocTfds(*place, name="mini_voc", **options)
    )
    kept = open_voc(VocData("voc_tfds", prepared["array_record"], "val", "2012"))
    files = open_voc(VocData("voc_devkit", devkit, "val", "2012"))
    assert (kept.names, files.names) == (tuple(LISTS["val"]),) * 2
    np.testing.assert_array_equal(kept.targets, files.targets)
    assert len(np.unique(kept.targets)) == 3
    with pytest.raises(ValueError, match="source='folder'"):
        open_voc(VocData("folder", devkit))
    with pytest.raises(ValueError, match="needs a `root`"):
        open_voc(VocData())


def test_errors_name_what_and_where(prepared, tmp_path):
    root = prepared["tfrecord"]
    with pytest.raises(VocError, match="None of the 2 images of mini_voc/2012/test is annotated"):
        VocTfds(root, "test", "2012", name="mini_voc")  # as TFDS builds that split
    with pytest.raises(ValueError, match="split='validation'"):
        VocTfds(root, "validation", name="mini_voc")
    with pytest.raises(FileNotFoundError, match=r"mini_voc/2007.* is not prepared in .*tfds build"):
        VocTfds(tmp_path, name="mini_voc")
    with pytest.raises(ValueError, match=r'"mini_voc".*2008'):
        VocTfds(root, year="2008", name="mini_voc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": b"no image"}, r"0000\d\d\.jpg.*no JPEG"),
        ({"image": None}, r"000001\.jpg.*not within the image of 20 x 10"),
        ({"objects": None}, r"0000\d\d\.jpg has no 'objects'"),
    ],
)
def test_records_that_cannot_be_used(prepared, monkeypatch, change, message):
    columns = VocTfds._columns

    def changed(self, records):
        change_of = {"image": encoded(random_image(10, 20))} if change == {"image": None} else change
        records = [{**record, **change_of} for record in records]
        if change == {"objects": None}:
            records = [{key: record[key] for key in record if key != "objects"} for record in records]
        return columns(self, records)

    monkeypatch.setattr(VocTfds, "_columns", changed)
    with pytest.raises(ValueError, match=message):
        VocTfds(prepared["array_record"], "val", name="mini_voc")


def test_boxes_are_clipped_where_that_is_asked_for(prepared, monkeypatch):
    columns = VocTfds._columns
    small = {
        "image": encoded(random_image(10, 20))
    }  # boxes are kept as shares: some begin before the first pixel
    monkeypatch.setattr(
        VocTfds, "_columns", lambda self, records: columns(self, ({**found, **small} for found in records))
    )
    source = VocTfds(prepared["array_record"], "val", boxes="clip", name="mini_voc")
    assert max(found.overhang.max() for found in source.annotations) > 0.2
    for found in source.annotations:
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [19, 9, 19, 9]).all()
    assert "boxes, in 3 of 3 images of mini_voc" in clipping_note(source)


def test_runs_in_a_graph(prepared, devkit):
    source = VocTfds(prepared["array_record"], name="mini_voc")
    dataset = tf.data.Dataset.range(len(source)).map(source.fetch)
    assert list(dataset.as_numpy_iterator()) == contents(VocDevkit(devkit))
