"""Region proposals, and the decoder before selective search."""

import io
from pathlib import Path

import numpy as np

from tests.data.images import encoded, random_image
from tests.faults.fuzzing import Reader
from tests.faults.readers.images import TOKENS, good_images, made_headers
from tests.faults.readers.samples import real


def _mat_seeds(folder: Path) -> list[bytes]:
    import scipy.io

    cells = np.empty((1, 2), object)
    cells[0] = [np.array([[1, 2, 30, 40], [5, 5, 5, 5]], "uint16"), np.zeros((0, 4))]
    names = np.empty((1, 2), object)
    names[0] = ["000001", "000002"]
    contents = [{"boxes": np.array([[0.0, 1, 2, 3]])}, {"boxes": cells, "images": names}]
    seeds = []
    for content in contents:
        for compressed in (False, True):
            file = io.BytesIO()
            scipy.io.savemat(file, content, do_compression=compressed)
            seeds.append(file.getvalue())
    file = io.BytesIO()
    scipy.io.savemat(file, contents[0], format="4")
    return [*seeds, file.getvalue(), *real("selective_search_samples/001551_boxes.mat")]


def _mat(path: Path):
    from rfd_tf.detection.mat_files import read_mat

    return read_mat(path)


def _npy_seeds(folder: Path) -> list[bytes]:
    seeds = []
    for array in (np.zeros((3, 4), "float32"), np.zeros((0, 4), "float32"), np.array([{}], object)):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        seeds.append(file.getvalue())
    file = io.BytesIO()
    np.savez(file, np.zeros((3, 4), "float32"))
    return [*seeds, file.getvalue()]


def _npy_headers(seeds):
    """NumPy's header is a Python literal."""
    from hypothesis import strategies as st

    types = st.sampled_from(["<f4", "|O", "<f8", "|V0", "<U99999999", "|b1", "(2,3)<f4", "[('a', 'O')]", "x"])
    sizes = st.sampled_from(
        ["(3, 4)", "()", "(-1, 4)", "(10**9, 4)", "(99999999999, 4)", "(2**62, 4)", "3", "[3, 4]"]
    )
    extra = st.sampled_from(
        ["", ", 'x': 1", ", 'x': __import__('os').system('touch pwned')", "," * 9, "(" * 90]
    )

    def file(dtype, shape, order, more, version):
        header = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape}{more}}}\n".encode()
        length = len(header).to_bytes(2 if version == 1 else 4, "little")
        return b"\x93NUMPY" + bytes([version, 0]) + length + header + bytes(48)

    return st.builds(file, types, sizes, st.sampled_from(["True", "False", "0"]), extra, st.integers(1, 4))


def _npy(path: Path):
    from rfd_tf.detection.proposals import load_proposals

    return load_proposals(path.parent, "input")


def _searched(path: Path):
    """Everything before the search itself, which takes seconds where an image is good."""
    from rfd_tf.detection import proposals

    opencv = proposals._opencv()
    found = []
    original = opencv.ximgproc.segmentation.createSelectiveSearchSegmentation
    opencv.ximgproc.segmentation.createSelectiveSearchSegmentation = lambda: _NoSearch(found)
    try:
        proposals.SelectiveSearch()(path)
    finally:
        opencv.ximgproc.segmentation.createSelectiveSearchSegmentation = original


class _NoSearch:
    def __init__(self, found):
        self.setBaseImage = found.append
        self.switchToSelectiveSearchFast = self.switchToSelectiveSearchQuality = lambda: None
        self.switchToSingleStrategy = lambda: None
        self.process = lambda: np.zeros((1, 4))


def _errors() -> tuple[type[Exception], ...]:
    from rfd_tf.detection.proposals import ProposalError

    return (ProposalError,)


def _search_seeds(folder: Path) -> list[bytes]:
    return [encoded(random_image(40, 50)), *good_images(folder)]


READERS = {
    "mat": Reader(_mat_seeds, _mat, _errors(), ".mat", (b"boxes", b"images", b"MATLAB", bytes(8))),
    "proposals_npy": Reader(_npy_seeds, _npy, _errors(), ".npy", (b"|O", b"(10**9,"), _npy_headers),
    "image_opencv": Reader(_search_seeds, _searched, _errors(), "", TOKENS, made_headers),
}
