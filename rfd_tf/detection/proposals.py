"""Selective search through OpenCV's contributed modules.

Reference: Uijlings et al., "Selective Search for Object Recognition", IJCV 2013.
"""

import concurrent.futures
import ctypes
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from rfd_tf.files import atomic_file, write_text
from rfd_tf.image_header import check_encoded, exif_orientation, upright
from rfd_tf.terminal import Stopped, StopSignals, end_with_parent, progress_bar

MODES = ("fast", "quality", "single")


class ProposalError(ValueError):
    """An image or a file of proposals that cannot be used; the message names it."""


@dataclasses.dataclass(frozen=True)
class SelectiveSearch:
    """Settings of selective search.

    Args:
        mode: "fast" (some 2,000 boxes in an image of VOC), "quality" (several times as many), or "single".
        min_side: boxes narrower or lower than that are dropped, in pixels.
        seed: of the random part of their order, in which likely objects come first.
        exif_orientation: whether images are turned as their EXIF says; boxes refer to turned ones.

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
        """A name for the results of these settings with this version of OpenCV, 16 hexadecimal digits."""
        settings = {**dataclasses.asdict(self), "opencv": _opencv().__version__}
        if not self.exif_orientation:  # as before there was such a setting
            del settings["exif_orientation"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def __call__(self, path: str | os.PathLike) -> np.ndarray:
        """The proposals of an image, float32 [P, 4], without duplicates and always in the same order.

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
    cv2.setNumThreads(1)  # images are searched in parallel
    return cv2


_SETTINGS = "settings.json"


class ProposalsStopped(Stopped):
    """Some images have no proposals yet."""


def propose(
    paths: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    search: SelectiveSearch | None = None,
    processes: int = 0,
) -> Path:
    """Search images for proposals, with a progress bar; images that are done already are skipped.

    On Ctrl-C or SIGTERM the current images are finished; the same call continues.

    Args:
        paths: the images. Their names without endings must differ.
        folder: keeps `FINGERPRINT/NAME.npy`, one file an image, by the settings of the search.
        search: the settings; those of `SelectiveSearch()` by default.
        processes: images at once; 0 for one a core.

    Returns:
        The folder of the files, for `load_proposals`.

    Raises:
        ProposalError: on an image that cannot be decoded, or when a process that searches is killed; finished
            work is kept.
        ProposalsStopped: on SIGTERM or Ctrl-C, after the current images.
        ValueError: if two images have the same name.
    """
    search = search or SelectiveSearch()
    names = [Path(path).stem for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"Two images are called {max(names, key=names.count)!r}; proposals go by names")
    target = Path(folder) / search.fingerprint()
    pending = [path for path, name in zip(paths, names, strict=True) if not _file(target, name).exists()]
    if not (target / _SETTINGS).exists():
        write_text(target / _SETTINGS, json.dumps(vars(search)))
    if not pending:
        return target
    workers = min(processes or os.cpu_count() or 1, len(pending))
    # Spawned, since a process that runs TensorFlow must not be forked.
    context = multiprocessing.get_context("spawn")
    with (
        StopSignals() as signals,
        concurrent.futures.ProcessPoolExecutor(workers, context, _obey_parent) as pool,
        progress_bar("Proposals", len(paths), done=len(paths) - len(pending)) as bar,
    ):
        running = {pool.submit(_search, search, path, target) for path in pending}
        try:
            while running:
                done, running = concurrent.futures.wait(
                    running, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    future.result()
                    bar.update()
                if signals.received is not None:
                    break
        except BrokenProcessPool:
            raise ProposalError(
                "A process that searched an image was killed, perhaps because memory ran out: try fewer "
                "`processes`. What is done is kept"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    if signals.received is not None:
        done = sum(_file(target, name).exists() for name in names)
        raise ProposalsStopped(signals.received, f"{done} of {len(names)} images have proposals")
    return target


def load_proposals(folder: str | os.PathLike, name: str) -> np.ndarray:
    """The proposals of the image called `name`, float32 [P, 4].

    Raises:
        FileNotFoundError: if there are none.
        ProposalError: if the file is damaged.
    """
    path = _file(Path(folder), name)
    try:
        # A map of the file: what it announces beyond its end is an error, and not an array of zeros.
        boxes = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise FileNotFoundError(f"No proposals at {path}") from None
    except Exception as error:  # NumPy's reader of headers raises whatever the bytes lead it to
        raise ProposalError(f"{path} cannot be read: {error}") from None
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype != np.float32:
        raise ProposalError(f"{path} holds no boxes, but {boxes.dtype} of shape {boxes.shape}")
    return np.array(boxes)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _search(search: SelectiveSearch, path: str | os.PathLike, target: Path) -> None:
    boxes = search(path)
    with atomic_file(_file(target, Path(path).stem)) as file:
        np.save(file, boxes)


def _obey_parent() -> None:
    """In a worker: the parent decides what a signal to the whole group means, and no worker outlives it."""
    end_with_parent()
    for number in StopSignals.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
