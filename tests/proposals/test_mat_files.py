import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io

from rfd_tf.detection.mat_files import parse_mat5, read_mat
from rfd_tf.detection.proposals import ProposalError


@pytest.mark.parametrize(
    ("name", "count", "size"), [("000004", 2888, (500, 406)), ("001551", 2057, (500, 375))]
)
def test_the_authors_samples(test_data, name, count, size):
    found = read_mat(test_data / "selective_search_samples" / f"{name}_boxes.mat")
    boxes = found[name]
    assert list(found) == [name]
    assert boxes.shape == (count, 4)
    assert boxes.dtype == np.float32
    assert boxes.min() == 0
    assert (boxes.max(axis=0)[2:] == np.subtract(size, 1)).all()


def cells(*values):
    array = np.empty((1, len(values)), object)
    array[0, :] = values
    return array


def write(path, **content):
    scipy.io.savemat(path, content)
    return path


def test_the_release_of_voc(tmp_path):
    """Rows are y1, x1, y2, x2, counted from 1."""
    path = write(
        tmp_path / "voc_2007_test.mat",
        boxes=cells(np.array([[1, 2, 30, 40], [5, 5, 5, 5]], "uint16"), np.zeros((0, 4))),
        images=cells("000001", "000002"),
    )
    found = read_mat(path)
    assert list(found) == ["000001", "000002"]
    np.testing.assert_array_equal(found["000001"], [[1, 0, 39, 29], [4, 4, 4, 4]])
    assert found["000002"].shape == (0, 4)
    with pytest.raises(ProposalError, match="are cells, which the convention 'xyxy_from_0' has not"):
        read_mat(path, "xyxy_from_0")


def test_one_array_under_another_name(tmp_path):
    path = write(tmp_path / "x_boxes.mat", boxes=np.array([[0, 1, 2, 3]]))
    assert list(read_mat(path)) == ["x"]
    assert list(read_mat(path, name="000042")) == ["000042"]
    with pytest.raises(ProposalError, match="one array, which the convention 'voc_release' has not"):
        read_mat(path, "voc_release")
    with pytest.raises(ValueError, match="'yxyx'"):
        read_mat(path, "yxyx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": np.ones(3)}, "has no `boxes`; it has nothing"),
        ({"boxes": np.ones((3, 5))}, r"must be numbers \[P, 4\]; they are float64 of shape \(3, 5\)"),
        ({"boxes": np.array([[5, 5, 9, 9], [9, 5, 5, 9]])}, r"Box 2 of x in .*\[9\.0, 5\.0, 5\.0, 9\.0\]"),
        ({"boxes": np.array([[0, 0, np.nan, 9]])}, "Box 1 of x"),
        ({"boxes": cells(np.zeros((1, 4))), "images": cells("a")}, r"Box 1 of a .*-1\.0"),
        ({"boxes": cells(np.ones((1, 4)))}, "boxes of 1 images and 0 names"),
        ({"boxes": cells(np.ones((1, 4)), np.ones((1, 4))), "images": cells("a", "a")}, "twice: 'a'"),
        ({"boxes": cells("text"), "images": cells("a")}, "must be numbers"),
    ],
)
def test_what_is_no_proposals_is_named(tmp_path, content, message):
    path = write(tmp_path / "x.mat", **content)
    with pytest.raises(ProposalError, match=message) as error:
        read_mat(path)
    assert str(path) in str(error.value)


def test_broken_files(tmp_path):
    path = tmp_path / "x.mat"
    with pytest.raises(FileNotFoundError, match=r"x\.mat"):
        read_mat(path)
    write(path, boxes=np.random.default_rng(0).integers(0, 99, (50, 4)))
    whole = path.read_bytes()
    for content in (
        b"",
        b"no MATLAB file",
        whole[:200],
        whole[:150] + bytes(99) + whole[249:],
        b"MATLAB 7.3" + whole[10:124] + b"\x00\x02IM",
    ):
        path.write_bytes(content)
        with pytest.raises(ProposalError, match=r"x\.mat"):
            read_mat(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "uint8", "int16", "uint16", "int32", "uint32", "int64"]
)
def test_numbers_and_cells_are_those_that_scipy_reads(tmp_path, dtype, compressed):
    boxes = np.random.default_rng(0).integers(0, 99, (7, 2)).repeat(2, axis=1).astype(dtype)
    content = {"other": np.ones((2, 3)), "boxes": cells(boxes, boxes[:0]), "images": cells("åb", "2")}
    scipy.io.savemat(tmp_path / "x.mat", content, do_compression=compressed)
    found = parse_mat5((tmp_path / "x.mat").read_bytes(), ("boxes", "images"))
    expected = scipy.io.loadmat(tmp_path / "x.mat", variable_names=("boxes", "images"))
    assert found.keys() == {"boxes", "images"}
    for ours, theirs in zip(found["boxes"].ravel(), expected["boxes"].ravel(), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert [str(name) for name in found["images"].ravel()] == [
        name.item() for name in expected["images"].ravel()
    ]


def test_packed_to_burst(tmp_path):
    bomb = zlib.compress(bytes(2**27))
    header = b"MATLAB 5.0".ljust(124) + struct.pack("<H2s2I", 0x100, b"IM", 15, len(bomb))
    (tmp_path / "x.mat").write_bytes(header + bomb)
    tracemalloc.start()
    try:
        with pytest.raises(ProposalError, match="unpacks to far more"):
            read_mat(tmp_path / "x.mat")
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
