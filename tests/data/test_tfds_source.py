import numpy as np
import pytest
import tensorflow as tf

from rfd_tf.data import (
    ImageFolder,
    Preprocessing,
    TfdsKeys,
    TfdsSource,
    find_bad_images,
    first_bad_image,
    open_source,
)
from rfd_tf.data.tfds_source import _numbers
from tests.data.datasets import training_dataset
from tests.data.images import write

mini_builders = pytest.importorskip("tests.data.mini_builders", reason="needs tensorflow_datasets")
FORMATS = ("array_record", "tfrecord")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same images as a folder; later letters come first, so that no order is right by accident."""
    paths = [f"{label}/{label}_{n}.jpg" for label in ("n03", "n01", "n02") for n in (12, 3, 40, 101)]
    root = write(tmp_path_factory.mktemp("folder"), *paths)
    mini_builders.CONTENT.clear()
    for path in paths:
        label, name = path.split("/")
        mini_builders.CONTENT.setdefault(label, {})[name] = (root / path).read_bytes()
    return ImageFolder(root)


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    """Folder of each file format, with all three builders prepared."""
    roots = {}
    for file_format in FORMATS:
        roots[file_format] = tmp_path_factory.mktemp(file_format)
        for kind in (mini_builders.MiniImagenet, mini_builders.MiniLabelled, mini_builders.MiniUnlabelled):
            kind(data_dir=roots[file_format], file_format=file_format).download_and_prepare()
    return roots


def contents(source):
    return [source.fetch(tf.constant(i, tf.int64)).numpy() for i in range(len(source))]


@pytest.mark.parametrize("file_format", FORMATS)
def test_order_of_imagenet_is_the_folders(prepared, folder, file_format):
    source = TfdsSource("mini_imagenet", prepared[file_format])
    assert contents(source) == contents(folder)
    np.testing.assert_array_equal(source.labels, folder.labels)
    assert source.class_names == folder.class_names
    assert source.describe(0) == "mini_imagenet/train[0] (n01_101.jpg)"
    assert find_bad_images(source) == {}


@pytest.mark.parametrize("file_format", FORMATS)
def test_numbered_images_come_in_the_original_order(folder, tmp_path, file_format):
    """TFDS stores by a hash; a long tail drawn from cifar10 must be drawn from the original's order."""
    mini_builders.MiniNumbered(data_dir=tmp_path, file_format=file_format).download_and_prepare()
    source = TfdsSource("mini_numbered", tmp_path, cache_dir=tmp_path)
    original = [
        (sorted(mini_builders.CONTENT).index(label), content)
        for label, files in mini_builders.CONTENT.items()
        for content in files.values()
    ]
    assert list(zip(source.labels.tolist(), contents(source), strict=True)) == original
    stored = TfdsSource("mini_numbered", tmp_path, cache_dir=tmp_path)._order
    assert not np.array_equal(stored, np.arange(len(stored))), "TFDS stored them in order: nothing was tested"
    assert contents(TfdsSource("mini_numbered", tmp_path, cache_dir=tmp_path)) == contents(source)


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [
        ([b"train_00010", b"train_00002"], [10, 2]),
        ([b"a_1", b"b_2"], None),
        ([b"x", b"train_1"], None),
        ([], None),
    ],
)
def test_numbers_of_ids(ids, numbers):
    found = _numbers(ids)
    assert (None if found is None else found.tolist()) == numbers


def test_both_formats_agree_without_file_names(prepared, folder):
    sources = [TfdsSource("mini_labelled", prepared[file_format]) for file_format in FORMATS]
    assert contents(sources[0]) == contents(sources[1])
    np.testing.assert_array_equal(sources[0].labels, sources[1].labels)
    by_content = dict(zip(contents(folder), folder.labels, strict=True))
    assert [by_content[content] for content in contents(sources[0])] == sources[0].labels.tolist()
    assert sources[0].describe(3) == "mini_labelled/train[3]"


@pytest.mark.parametrize("file_format", FORMATS)
def test_unlabelled_and_part_of_a_split(prepared, file_format):
    source = TfdsSource("mini_unlabelled", prepared[file_format], "train[:50%]")
    assert len(source) == 6
    assert source.labels is None
    assert source.class_names is None
    assert len(set(contents(source))) == 6


@pytest.mark.parametrize("file_format", FORMATS)
def test_pipeline_equals_the_folders(prepared, folder, file_format):
    options = {"batch_size": 4, "seed": 0, "epochs": 2, "with_labels": True}
    recipe = Preprocessing(8, resize=8)
    source = open_source("tfds", prepared[file_format], name="mini_imagenet")
    mine, theirs = (training_dataset(s, recipe, **options).as_numpy_iterator() for s in (source, folder))
    for (left, left_label), (right, right_label) in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])
        np.testing.assert_array_equal(left_label, right_label)


def test_a_damaged_record_is_named(prepared, monkeypatch):
    source = TfdsSource("mini_imagenet", prepared["array_record"])
    read = source._read

    def failing(index):
        if index == 5:
            raise OSError("damaged record")
        return read(index)

    monkeypatch.setattr(source, "_read", failing)
    assert find_bad_images(source) == {5: "damaged record"}
    assert "n02_12.jpg" in str(first_bad_image(source))


def test_cache_saves_the_pass(prepared, folder, tmp_path, monkeypatch):
    first = TfdsSource("mini_imagenet", prepared["array_record"], cache_dir=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 1
    monkeypatch.setattr(TfdsSource, "_columns", None)
    second = TfdsSource("mini_imagenet", prepared["array_record"], cache_dir=tmp_path)
    assert contents(second) == contents(first) == contents(folder)
    np.testing.assert_array_equal(second.labels, folder.labels)


def test_too_large_for_memory_names_the_conversion(prepared):
    with pytest.raises(
        ValueError, match=r"max_bytes=100\. .*tfds convert_format --dataset_version_dir=.*mini_labelled"
    ):
        TfdsSource("mini_labelled", prepared["tfrecord"], max_bytes=100)


def test_errors(prepared, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not prepared in .*download=True.*tfds build mini_labelled"):
        TfdsSource("mini_labelled", tmp_path)
    with pytest.raises(ValueError, match="no split 'test'; it has train"):
        TfdsSource("mini_labelled", prepared["tfrecord"], "test")
    with pytest.raises(ValueError, match=r"no image 'picture' .*it has image"):
        TfdsSource("mini_labelled", prepared["tfrecord"], keys=TfdsKeys(image="picture"))
    with pytest.raises(ValueError, match="no builder 'mini_nothing'") as error:
        TfdsSource("mini_nothing", tmp_path)
    assert len(str(error.value)) < 300


def test_download_prepares(folder, tmp_path):
    source = TfdsSource("mini_labelled", tmp_path, download=True)
    assert len(source) == 12
    assert list(tmp_path.rglob("*.array_record*"))
