"""What a detector finds in many pictures, kept on disk."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rfd_tf.atomic import atomic_file
from rfd_tf.detection.detect import Detections
from rfd_tf.detection.detector import Detector
from rfd_tf.progress_bar import progress_bar
from rfd_tf.stop_signals import Stopped, StopSignals


class DetectionStopped(Stopped):
    """Pictures remain to be looked at."""


def detect_pictures(
    detector: Detector,
    names: Sequence[str],
    read: Callable[[int], np.ndarray],
    proposals: Sequence[np.ndarray],
    folder: str | os.PathLike,
) -> dict[str, Detections]:
    """Detect in pictures, with a progress bar; those that are done already are passed over.

    Args:
        detector: trained.
        names: of the pictures, N different ones.
        read: gives picture i, uint8 [H, W, 3].
        proposals: of each picture.
        folder: keeps `NAME.npz`, one file a picture. It is of this detector, these pictures and proposals,
            and of nothing else.

    Returns:
        Name -> detections, in the order of `names`.

    Raises:
        DetectionStopped: on SIGTERM or Ctrl-C, after the picture at hand; the same call goes on.
        ValueError: on a damaged file in the folder; it is named.
    """
    files = {name: Path(folder, f"{name}.npz") for name in names}
    done = sum(file.exists() for file in files.values())
    with StopSignals() as signals, progress_bar("Detecting", len(files), done=done) as bar:
        for index, file in enumerate(files.values()):
            if file.exists():
                continue
            found = detector(read(index), proposals[index])
            with atomic_file(file) as opened:
                np.savez(opened, **{name: value for name, value in vars(found).items() if value is not None})
            bar.update()
            if signals.received is not None:
                raise DetectionStopped(signals.received, f"{bar.n} of {len(files)} pictures are done")
    return {name: _load(file) for name, file in files.items()}


def _load(file: Path) -> Detections:
    try:
        with np.load(file, allow_pickle=False) as saved:
            return Detections(saved["boxes"], saved["scores"], saved["labels"], saved.get("candidates"))
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise ValueError(f"{file} cannot be read ({error}): delete it, and start again") from None
