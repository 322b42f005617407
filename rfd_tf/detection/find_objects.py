"""What a detector finds in many images, kept on disk and drawn."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rfd_tf.data import FlatFolder
from rfd_tf.data.image_folder import ImageFiles
from rfd_tf.detection.detector import Detections, Detector
from rfd_tf.detection.drawing import DRAWN_SCORE, draw_detections
from rfd_tf.detection.inputs import read_image
from rfd_tf.detection.proposals import SelectiveSearch, load_proposals, propose
from rfd_tf.files import atomic_file, write_text
from rfd_tf.models.keras_file import digest_weights
from rfd_tf.runs.workdir import CACHE_FOLDER, check_workdir, claim_workdir, lock_workdir
from rfd_tf.terminal import Stopped, StopSignals, progress_bar


class DetectionStopped(Stopped):
    """Images remain to be looked at."""


def detect_images(
    detector: Detector,
    names: Sequence[str],
    read: Callable[[int], np.ndarray],
    proposals: Sequence[np.ndarray],
    folder: str | os.PathLike,
) -> dict[str, Detections]:
    """Detect in images, with a progress bar; those that are done already are passed over.

    Args:
        detector: trained.
        names: of the images, N different ones.
        read: gives image i, uint8 [H, W, 3].
        proposals: of each image.
        folder: keeps `NAME.npz`, one file an image. It is of this detector, these images and proposals,
            and of nothing else.

    Returns:
        Name -> detections, in the order of `names`.

    Raises:
        DetectionStopped: on SIGTERM or Ctrl-C, after the image at hand; the same call goes on.
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
                raise DetectionStopped(signals.received, f"{bar.n} of {len(files)} images are done")
    return {name: _load(file) for name, file in files.items()}


def _load(file: Path) -> Detections:
    try:
        with np.load(file, allow_pickle=False) as saved:
            return Detections(saved["boxes"], saved["scores"], saved["labels"], saved.get("candidates"))
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise ValueError(f"{file} cannot be read ({error}): delete it, and start again") from None


DETECTIONS_FILE = "detections.json"
IMAGES = "pictures"  # folder


def find_objects(
    detector: Detector, images: str | os.PathLike, out: str | os.PathLike, most_proposals: int = 2000
) -> Path:
    """Propose regions by selective search, detect, and write what was found; continue what was interrupted.

    Args:
        detector: trained.
        images: an image, or a folder of images, whose names without endings differ.
        out: the folder to write: `detections.json`, and `images/NAME.png` with the objects
            drawn in, those of a score of 0.3 and more.
        most_proposals: for an image, at most.

    Returns:
        The path of `detections.json`: a list of, for each image, its `file`, and `detections` by falling
        score, each with `class`, `score` and `box` (x1, y1, x2, y2 in pixels from 0, both corners inclusive;
        with `detector.exif_orientation` in the image as it is shown).

    Raises:
        FileNotFoundError: if there is no image.
        BadImageError, ProposalError: on an image that cannot be read; it is named.
        WorkdirError: if `out` holds something else.
        Stopped: on SIGTERM or Ctrl-C; what was done is kept.
        ValueError: if two images have the same name.
    """
    source, out = _images(Path(images)), Path(out)
    claimed = {
        "detector": _fingerprint(detector),
        "pictures": source.fingerprint(np.arange(len(source))),
        "most_proposals": most_proposals,
    }
    check_workdir(out, claimed)
    with lock_workdir(out):
        claim_workdir(out, claimed)
        cache = out / CACHE_FOLDER
        paths = [source.root / file for file in source.files]
        folder = propose(
            paths, cache / "proposals", SelectiveSearch(exif_orientation=detector.exif_orientation)
        )
        names = [path.stem for path in paths]
        proposals = [load_proposals(folder, name)[:most_proposals] for name in names]

        def read(index: int) -> np.ndarray:
            return read_image(source, index, detector.exif_orientation)

        found = detect_images(detector, names, read, proposals, cache / "detections")
        for index, name in enumerate(names):
            path = out / IMAGES / f"{name}.png"
            if not path.exists():
                draw_detections(path, read(index), found[name], detector.class_names, score=DRAWN_SCORE)
        return _write(out / DETECTIONS_FILE, dict(zip(source.files, found.values(), strict=True)), detector)


def _fingerprint(detector: Detector) -> str:
    digest = hashlib.sha256(json.dumps(detector.facts()).encode())
    digest_weights(digest, detector.model)
    return digest.hexdigest()


def _images(images: Path) -> ImageFiles:
    if images.is_file():
        return ImageFiles(images.parent, [images.name], None, None)
    return FlatFolder(images)


def _write(path: Path, found: Mapping[str, Detections], detector: Detector) -> Path:
    listed = [{"file": file, "detections": _listed(of, detector.class_names)} for file, of in found.items()]
    write_text(path, json.dumps(listed, indent=1) + "\n")
    return path


def _listed(found: Detections, class_names) -> list[dict]:
    return [
        {"class": class_names[label], "score": float(score), "box": [float(value) for value in box]}
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]
