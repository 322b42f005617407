"""Selective search through OpenCV's contributed modules.

Reference: Uijlings et al., "Selective Search for Object Recognition", IJCV 2013.
"""

import ctypes
import dataclasses
import hashlib
import json
import os

import numpy as np

from rfd_tf.image_header import check_encoded, exif_orientation, upright

MODES = ("fast", "quality", "single")


class ProposalError(ValueError):
    """A picture or a file of proposals that cannot be used; its message names it."""


@dataclasses.dataclass(frozen=True)
class SelectiveSearch:
    """Settings of selective search.

    Args:
        mode: "fast" (some 2,000 boxes in a picture of VOC), "quality" (several times as many), or "single".
        min_side: boxes less wide or high than that are left out, in pixels.
        seed: of the random part of their order; boxes come likely objects first.
        exif_orientation: whether pictures are turned as their EXIF says; boxes are in these.

    Raises:
        ValueError: on settings out of range.
    """

    mode: str = "fast"
    min_side: int = 1
    seed: int = 0
    exif_orientation: bool = True

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={self.mode!r}")
        if self.min_side < 1:
            raise ValueError(f"`min_side` must be at least 1. Received: min_side={self.min_side}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be in [0, 2**32). Received: seed={self.seed}")

    def fingerprint(self) -> str:
        """A name for results of these settings by this version of OpenCV, 16 hexadecimal digits."""
        settings = {**dataclasses.asdict(self), "opencv": _opencv().__version__}
        if not self.exif_orientation:  # as before there was such a setting
            del settings["exif_orientation"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def __call__(self, path: str | os.PathLike) -> np.ndarray:
        """The proposals of a picture, float32 [P, 4], each once; the same call gives them in the same order.

        Not to be run in several threads at a time: OpenCV draws from the C library's generator.

        Raises:
            ProposalError: on a file that OpenCV cannot decode.
            ImportError: without OpenCV's contributed modules.
        """
        cv2 = _opencv()
        if reason := check_encoded(path):
            raise ProposalError(f"{os.fspath(path)} cannot be decoded: {reason}")
        encoded = np.fromfile(path, "uint8")
        how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # the rule is ours
        image = cv2.imdecode(encoded, how) if encoded.size else None
        if image is None:
            raise ProposalError(f"{os.fspath(path)} cannot be decoded")
        if self.exif_orientation:
            image = np.ascontiguousarray(upright(image, exif_orientation(path)))
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(image)
        {
            "fast": search.switchToSelectiveSearchFast,
            "quality": search.switchToSelectiveSearchQuality,
            "single": search.switchToSingleStrategy,
        }[self.mode]()
        ctypes.CDLL(None).srand(ctypes.c_uint(self.seed))
        rectangles = np.asarray(search.process(), "int64").reshape(-1, 4)
        left, top, width, height = rectangles[(rectangles[:, 2:] >= self.min_side).all(axis=1)].T
        boxes = np.stack([left, top, left + width - 1, top + height - 1], axis=1).astype("float32")
        _, first = np.unique(boxes, axis=0, return_index=True)
        return boxes[np.sort(first)]


def _opencv():
    try:
        import cv2

        cv2.ximgproc.segmentation.createSelectiveSearchSegmentation  # noqa: B018  is it there?
    except (ImportError, AttributeError):
        raise ImportError(
            "Selective search needs OpenCV with its contributed modules: pip install 'rfd_tf[detection]'. "
            "(A plain opencv-python beside it must be removed first.)"
        ) from None
    cv2.setNumThreads(1)  # pictures are what runs in parallel
    return cv2
