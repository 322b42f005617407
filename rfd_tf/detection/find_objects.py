"""Detections in many images, kept on disk and drawn."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rfd_tf.data import FlatFolder
from rfd_tf.data.image_folder import ImageFiles
from rfd_tf.data.voc import Annotation
from rfd_tf.detection.detector import Detections, Detector
from rfd_tf.detection.inputs import read_image
from rfd_tf.detection.proposals import SelectiveSearch, load_proposals, propose
from rfd_tf.files import atomic_file, write_text
from rfd_tf.models.keras_file import digest_weights
from rfd_tf.runs.workdir import CACHE_FOLDER, check_workdir, claim_workdir, lock_workdir
from rfd_tf.terminal import Stopped, StopSignals, progress_bar

DETECTIONS_FILE = "detections.json"
DRAWINGS = "pictures"  # folder


class DetectionStopped(Stopped):
    """Some images have not been processed yet."""


def detect_images(
    detector: Detector,
    names: Sequence[str],
    read: Callable[[int], np.ndarray],
    proposals: Sequence[np.ndarray],
    folder: str | os.PathLike,
) -> dict[str, Detections]:
    """Detect objects in images, with a progress bar; images that are done already are skipped.

    Args:
        detector: trained.
        names: of the N images, all different.
        read: returns image i, uint8 [H, W, 3].
        proposals: of each image.
        folder: keeps `NAME.npz`, one file an image. It belongs to this detector, these images and proposals.

    Returns:
        Name -> detections, in the order of `names`.

    Raises:
        DetectionStopped: on SIGTERM or Ctrl-C, after the current image; the same call continues.
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


def find_objects(
    detector: Detector, images: str | os.PathLike, out: str | os.PathLike, most_proposals: int = 2000
) -> Path:
    """Propose regions by selective search, detect, and write the results; an interrupted call continues.

    Args:
        detector: trained.
        images: an image, or a folder of images, whose names without endings differ.
        out: the folder to write: `detections.json`, and `pictures/NAME.png` with those objects drawn whose
            score is 0.3 or more.
        most_proposals: for an image, at most.

    Returns:
        The path of `detections.json`: a list of, for each image, its `file`, and `detections` by falling
        score, each with `class`, `score` and `box` (x1, y1, x2, y2 in pixels from 0, both corners inclusive;
        with `detector.exif_orientation` in the image turned as its EXIF says).

    Raises:
        FileNotFoundError: if there is no image.
        BadImageError, ProposalError: on an image that cannot be read; it is named.
        WorkdirError: if `out` holds something else.
        Stopped: on SIGTERM or Ctrl-C; finished work is kept.
        ValueError: if two images have the same name.
    """
    images, out, turned = Path(images), Path(out), detector.exif_orientation
    single = images.is_file()
    source = ImageFiles(images.parent, [images.name], None, None) if single else FlatFolder(images)
    digest = hashlib.sha256(json.dumps(detector.facts()).encode())
    digest_weights(digest, detector.model)
    claimed = {
        "detector": digest.hexdigest(),
        "pictures": source.fingerprint(np.arange(len(source))),
        "most_proposals": most_proposals,
    }
    check_workdir(out, claimed)
    with lock_workdir(out):
        claim_workdir(out, claimed)
        cache = out / CACHE_FOLDER
        paths = [source.root / file for file in source.files]
        names = [path.stem for path in paths]
        folder = propose(paths, cache / "proposals", SelectiveSearch(exif_orientation=turned))
        proposals = [load_proposals(folder, name)[:most_proposals] for name in names]

        def read(index: int) -> np.ndarray:
            return read_image(source, index, turned)

        found = detect_images(detector, names, read, proposals, cache / "detections")
        for index, name in enumerate(names):
            path = out / DRAWINGS / f"{name}.png"
            if not path.exists():
                draw_detections(path, read(index), found[name], detector.class_names, score=DRAWN_SCORE)
        listed = [
            {"file": file, "detections": _listed(found[name], detector.class_names)}
            for file, name in zip(source.files, names, strict=True)
        ]
        write_text(out / DETECTIONS_FILE, json.dumps(listed, indent=1) + "\n")
        return out / DETECTIONS_FILE


def _listed(found: Detections, class_names: Sequence[str]) -> list[dict]:
    return [
        {"class": class_names[label], "score": float(score), "box": [float(value) for value in box]}
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]


# Okabe and Ito's colours that stand out from photographs; colour-blind people can tell them apart, too.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_TRUE, _EDGE = (255, 255, 255), (0, 0, 0)
_DASH = 6  # pixels
DRAWN_SCORE = 0.3  # of drawn detections; average precision counts them all


def drawn_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    annotation: Annotation | None = None,
    score: float = 0.0,
) -> np.ndarray:
    """The image with a box, the class and the score in % for each detection, the likeliest on top.

    Args:
        image: uint8 [H, W, 3].
        detections: in it.
        class_names: of the data.
        annotation: its objects are drawn as well, dashed and white, with a `?` if they are difficult.
        score: detections of lower probability are not drawn.

    Returns:
        uint8 [H, W, 3].
    """
    drawing = Image.fromarray(image)
    pen = ImageDraw.Draw(drawing)
    font = ImageFont.load_default(max(12, min(drawing.size) // 26))
    tags = []  # drawn last, so that no box crosses them
    if annotation is not None:
        for box, label, difficult in zip(
            annotation.boxes, annotation.labels, annotation.difficult, strict=True
        ):
            _dashed(pen, box)
            tags.append((_corner(box, below=True), class_names[label] + "?" * bool(difficult), _TRUE))
    for row in np.flatnonzero(detections.scores >= score)[::-1]:
        box, label = detections.boxes[row], detections.labels[row]
        colour = _COLOURS[label % len(_COLOURS)]
        _framed(pen, box, colour)
        tags.append((_corner(box), f"{class_names[label]} {100 * detections.scores[row]:.0f}", colour))
    for corner, text, colour in tags:
        _tag(pen, font, corner, text, colour, drawing.size)
    return np.asarray(drawing)


def draw_detections(path: str | os.PathLike, image: np.ndarray, *arguments, **options) -> None:
    """Write the PNG of `drawn_detections(image, ...)`."""
    with atomic_file(path) as file:
        Image.fromarray(drawn_detections(image, *arguments, **options)).save(file, "PNG")


def _framed(pen, box, colour) -> None:
    """Two pixels of colour between dark edges: seen on any ground."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    for inset, width, ink in ((-1, 4, _EDGE), (0, 2, colour)):
        corners = (x1 + inset, y1 + inset, max(x2 - inset, x1 + inset), max(y2 - inset, y1 + inset))
        pen.rectangle(corners, outline=ink, width=width)


def _dashed(pen, box) -> None:
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    for start, end, fixed, across in (
        (x1, x2, y1, True),
        (x1, x2, y2, True),
        (y1, y2, x1, False),
        (y1, y2, x2, False),
    ):
        for number, at in enumerate(range(start, end + 1, _DASH)):
            until = min(at + _DASH - 1, end)
            line = ((at, fixed), (until, fixed)) if across else ((fixed, at), (fixed, until))
            pen.line(line, fill=_EDGE if number % 2 else _TRUE, width=2)


def _corner(box, below: bool = False) -> tuple[int, int]:
    """Where a box's tag begins: at its upper left corner, or, inside, at its lower left one."""
    return round(float(box[0])), round(float(box[3 if below else 1]))


def _tag(pen, font, corner, text: str, colour, size) -> None:
    """Dark text on a plate that ends above `corner`, x and y, but lies within the image."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 5
    x = max(0, min(corner[0], size[0] - width))
    y = max(0, min(corner[1] - height, size[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour, outline=_EDGE)
    pen.text((x + 3 - left, y + 2 - top), text, font=font, fill=_EDGE)
