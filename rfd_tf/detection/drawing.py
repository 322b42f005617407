"""Detections drawn on pictures."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rfd_tf.atomic import atomic_file
from rfd_tf.data.voc import Annotation
from rfd_tf.detection.detect import Detections

# Okabe and Ito's colours that stand out from photographs; told apart by colour-blind people, too.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
_TRUE, _EDGE = (255, 255, 255), (0, 0, 0)
_DASH = 6  # pixels


def drawn_detections(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    annotation: Annotation | None = None,
    score: float = 0.0,
) -> np.ndarray:
    """The picture with a box, the class and the score in % for each detection, the likeliest on top.

    Args:
        image: uint8 [H, W, 3].
        detections: in it.
        class_names: of the data.
        annotation: its objects are drawn as well, dashed and white, with a `?` if they are difficult.
        score: detections of lower probability are left out.

    Returns:
        uint8 [H, W, 3].
    """
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12, min(picture.size) // 26))
    tags = []  # drawn last: no box shall cross them
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
        _tag(pen, font, corner, text, colour, picture.size)
    return np.asarray(picture)


def draw_detections(path: str | os.PathLike, image: np.ndarray, *arguments, **options) -> None:
    """Write the PNG of `drawn_detections(image, ...)`."""
    picture = Image.fromarray(drawn_detections(image, *arguments, **options))
    with atomic_file(path) as file:
        picture.save(file, "PNG")


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
    """Dark text on a plate that ends above `corner`, x and y, but lies within the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 5
    x = max(0, min(corner[0], size[0] - width))
    y = max(0, min(corner[1] - height, size[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour, outline=_EDGE)
    pen.text((x + 3 - left, y + 2 - top), text, font=font, fill=_EDGE)
