"""Proposals of annotated images: searched or read from files."""

import re

import numpy as np
import pytest
import scipy.io

from rfd_tf.configs.detect import base
from rfd_tf.data import VocData, VocDevkit, VocError, open_voc
from rfd_tf.detection.inputs import find_proposals, image_files, open_annotated
from rfd_tf.detection.proposals import ProposalError
from tests.detection import toy


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.write_devkit(tmp_path_factory.mktemp("devkit"))


@pytest.fixture(scope="module")
def source(root):
    return VocDevkit(root, "test")


def config_of(**changes):
    config = base.get_config().proposals
    config.update({"mode": "single", "processes": 1, **changes})
    return config


class InArchive:
    """Images that are no files of their own, as TFDS's."""

    def __init__(self, source):
        self.names, self.annotations, self.fetch = source.names, source.annotations, source.fetch

    def __len__(self):
        return len(self.names)

    def describe(self, index):
        return f"archive[{index}]"


def write_mat(path, names, boxes):
    """As VOC's releases are: y1, x1, y2, x2 from 1."""
    cells = np.empty((2, len(names)), object)
    cells[0], cells[1] = names, [found[:, [1, 0, 3, 2]] + 1 for found in boxes]
    scipy.io.savemat(path, {"images": cells[:1], "boxes": cells[1:]})
    return str(path)


def boxes_of(source, count=5):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, [40, 30], (len(source), count, 2))
    return np.concatenate([corners, corners + rng.integers(0, [40, 30], corners.shape)], axis=2)


def test_images_in_an_archive_are_searched_as_files_are(source, tmp_path):
    archive = InArchive(source)
    paths = image_files(archive, tmp_path / "pictures")
    for index, path in enumerate(paths):
        assert path.read_bytes() == source.fetch(index).numpy()
    expected = find_proposals(config_of(folder=str(tmp_path / "a")), source, tmp_path)
    found = find_proposals(config_of(folder=str(tmp_path / "b"), most=3), archive, tmp_path)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(other, one[:3])


def test_files_are_put_together_and_cut(source, tmp_path):
    boxes = boxes_of(source)
    half = len(source) // 2
    files = tuple(
        write_mat(tmp_path / f"{number}.mat", source.names[part], boxes[part])
        for number, part in enumerate((slice(half), slice(half, None)))
    )
    found = find_proposals(config_of(source="mat", mat_files=files, most=4), source, tmp_path)
    np.testing.assert_array_equal(found, boxes[:, :4])
    with pytest.raises(ProposalError, match=rf"no boxes of image {source.names[half]} \(2 missing\)"):
        find_proposals(config_of(source="mat", mat_files=files[:1]), source, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda boxes: np.maximum(boxes, [0, 0, 80, 0]), r"x2, y2 = .*beyond its 80 x 60 pixels"),
        (lambda boxes: boxes[:0], "There is no proposal for image 000008"),
    ],
)
def test_boxes_that_cannot_be_of_the_image(source, tmp_path, change, message):
    path = write_mat(tmp_path / "boxes.mat", source.names, [change(boxes) for boxes in boxes_of(source)])
    with pytest.raises(ProposalError, match=message):
        find_proposals(config_of(source="mat", mat_files=(path,)), source, tmp_path)


def test_the_first_images_of_a_list(root, source):
    first = open_voc(VocData(root=root, split="test", limit=2))
    assert first.names == source.names[:2]
    for one, other in zip(first.annotations, source.annotations[:2], strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(first.targets, source.targets[:2])
    assert first.fetch(1).numpy() == source.fetch(1).numpy()
    assert open_voc(VocData(root=root, split="test", limit=100)).names == source.names
    with pytest.raises(ValueError, match="`limit` must not be negative"):
        open_voc(VocData(root=root, limit=-1))


def test_a_image_that_is_none_is_named(tmp_path):
    root = toy.write_devkit(tmp_path)
    path = root / "VOC2007" / "JPEGImages" / "000008.jpg"
    path.write_bytes(b"no image")
    data = base.voc_fields("test")
    data.root = str(root)
    with pytest.raises(VocError, match=r"000008.jpg: it is no JPEG"):
        open_annotated(data)


def test_images_without_objects_are_refused(tmp_path):
    """Average precision would be of nothing, after all the training."""
    root = toy.write_devkit(tmp_path)
    for path in (root / "VOC2007" / "Annotations").iterdir():
        text = path.read_text()
        assert "<object>" in text
        path.write_text(re.sub("<object>.*</object>", "", text, flags=re.DOTALL))
    data = base.voc_fields("test")
    data.root = str(root)
    with pytest.raises(VocError, match=r"There is no object to find in the [0-9]+ images of"):
        open_annotated(data)
