"""What an encoded image's header tells, before anything is decoded."""

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Literal

from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin

if TYPE_CHECKING:
    import numpy as np  # `rfd extract --help` does without

MAX_PIXELS = 64_000_000  # 192 MB decoded, 768 MB while it is resized
MAX_ASPECT = 100  # long side over short side, which resizing by the short side multiplies

ANIMATED, WEBP_ANIMATION = "animated WebP", 0x02  # a bit of the extended header
PNG = b"\x89PNG\r\n\x1a\n"

# EXIF's orientations (tag 274): how stored pixels become the image that is shown. Rows and columns are
# exchanged first, then rows, columns, or both are reversed.
ORIENTATION_TAG = 0x0112
TRANSPOSES, FLIPS_ROWS, FLIPS_COLUMNS = (
    frozenset({5, 6, 7, 8}),
    frozenset({3, 4, 7, 8}),
    frozenset({2, 3, 6, 7}),
)
EXIF = b"Exif\0\0"
MAX_SEGMENTS = 100  # of a file, that are looked through for EXIF
MAX_EXIF_BYTES = 2**16

_READERS = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    PNG: PngImagePlugin.PngImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}


def check_encoded(
    data: bytes | str | os.PathLike, max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT
) -> str | None:
    """Why an encoded image is refused, in a few words, or None.

    Only the header is read, so an image that passes may still be cut short; decoding tells. Refused are:
    what is no JPEG, PNG, BMP or WebP, by content; animated WebP; and images so large or long that decoding
    or resizing them would exhaust the memory.

    Args:
        data: a file's bytes, or its path.
        max_pixels: most pixels (width x height).
        max_aspect: most that the long side may be over the short one.
    """
    if not isinstance(data, bytes):
        try:
            with open(data, "rb") as file:
                return _check(file, max_pixels, max_aspect)
        except OSError as error:
            return f"it cannot be read ({error.strerror or error})"
    return _check(io.BytesIO(data), max_pixels, max_aspect)


def encoded_size(data: bytes | str | os.PathLike, orientation: bool = False) -> tuple[int, int]:
    """(width, height) of an image, as of `check_encoded`; ValueError where that has something to say.

    Args:
        data: a file's bytes, or its path.
        orientation: whether of the image as it is shown, by its `exif_orientation`, or as it is stored.
    """
    if problem := check_encoded(data):
        raise ValueError(problem)
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        width, height, _ = _size_and_kind(file, file.read(30))
    if orientation and exif_orientation(data) in TRANSPOSES:
        return height, width
    return width, height


def exif_orientation(data: bytes | str | os.PathLike) -> int:
    """How an image is to be turned when it is shown: EXIF's orientation, 1 to 8; 1 is as it is stored.

    Read from the EXIF segment of a JPEG, if it is among the metadata at its beginning, as EXIF demands, and
    from the chunks `eXIf` of a PNG and `EXIF` of a WebP. All else is 1: damaged EXIF, values out of range,
    EXIF behind `MAX_SEGMENTS` others or `MAX_EXIF_BYTES` into it, and what XMP or PNG's text chunks say.

    Args:
        data: a file's bytes, or its path.

    Reference: CIPA DC-008 (EXIF), tag Orientation.
    """
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        return _orientation(_exif(file))


def upright(pixels: "np.ndarray", orientation: int) -> "np.ndarray":
    """Stored pixels [H, W, ...] as they are to be shown, for an orientation of 1 to 8; a view."""
    if orientation in TRANSPOSES:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (-1 if orientation in flips else 1 for flips in (FLIPS_ROWS, FLIPS_COLUMNS))
    return pixels[::rows, ::columns]


def _check(file: BinaryIO, max_pixels: int, max_aspect: float) -> str | None:
    start = file.read(30)
    if not start:
        return "it is empty"
    try:
        width, height, kind = _size_and_kind(file, start)
    except Exception as error:  # PIL's readers raise whatever the bytes lead them to
        return f"its header cannot be read ({error or type(error).__name__})"
    if kind is None:
        return "it is no JPEG, PNG, BMP or WebP image"
    if kind == ANIMATED:
        return "it is an animated WebP: take a frame of it"
    if width < 1 or height < 1:
        return f"it has no pixels ({width}x{height})"
    if width * height > max_pixels:
        return f"it has {width}x{height} pixels, more than {max_pixels}"
    if max(width, height) > max_aspect * min(width, height):
        return f"it has {width}x{height} pixels, a side more than {max_aspect:g} times the other"
    return None


def _size_and_kind(file: BinaryIO, start: bytes) -> tuple[int, int, str | None]:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        animated = start[12:16] == b"VP8X" and start[20:21] and start[20] & WEBP_ANIMATION
        return *_webp_size(start), ANIMATED if animated else "WEBP"
    for signature, reader in _READERS.items():
        if start.startswith(signature):
            file.seek(0)
            # Not `Image.open`, which warns of large images and refuses at limits of its own.
            with reader(file) as image:  # type: ignore[abstract]
                return *image.size, image.format
    return 0, 0, None


def _webp_size(start: bytes) -> tuple[int, int]:
    """Width and height (RFC 9649); PIL's reader sets up the decoder to find them."""
    kind, body = start[12:16], start[20:30]
    if len(body) < 10:
        raise ValueError("truncated")
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return (
            int.from_bytes(body[6:8], "little") & 0x3FFF,
            int.from_bytes(body[8:10], "little") & 0x3FFF,
        )
    raise ValueError(f"unknown chunk {kind!r}")


def _exif(file: BinaryIO) -> bytes:
    """The TIFF data of a file's EXIF; empty where there is none."""

    def read(position: int, count: int) -> bytes:
        file.seek(position)
        return file.read(max(0, min(count, MAX_EXIF_BYTES)))

    start = read(0, 12)
    if start.startswith(b"\xff\xd8"):
        return _exif_of_jpeg(read)
    if start.startswith(PNG):
        return _exif_of_chunks(read, 8, png=True)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return _exif_of_chunks(read, 12, png=False)
    return b""


def _exif_of_jpeg(read: Callable[[int, int], bytes]) -> bytes:
    position = 2
    for _ in range(MAX_SEGMENTS):
        head = read(position, 10).ljust(10, b"\0")
        if head[:2] == b"\xff\xff":  # a 0xFF before a marker fills up
            position += 1
            continue
        marker, size = head[1], int.from_bytes(head[2:4], "big")
        if head[0] != 0xFF or not (0xE0 <= marker <= 0xEF or marker == 0xFE) or size < 2:
            break  # the end of the metadata
        if marker == 0xE1 and head[4:] == EXIF:
            return read(position + 10, size - 8)
        position += 2 + size
    return b""


def _exif_of_chunks(read: Callable[[int, int], bytes], position: int, png: bool) -> bytes:
    for _ in range(MAX_SEGMENTS):
        head = read(position, 8)
        if len(head) < 8:
            break
        name, size = (head[4:], head[:4]) if png else (head[:4], head[:3:-1])
        size = int.from_bytes(size, "big")
        if name == (b"eXIf" if png else b"EXIF"):
            return read(position + 8, size) if png else read(position + 8, size).removeprefix(EXIF)
        if name == b"IEND" or size >= 2**31:
            break
        position += 12 + size if png else 8 + size + size % 2
    return b""


def _orientation(tiff: bytes) -> int:
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order: Literal["little", "big"] = "little" if tiff[:1] == b"I" else "big"

    def number(start: int, count: int) -> int:
        return int.from_bytes(tiff[start : start + count], order)

    directory = number(4, 4)
    last = min(directory + 2 + 12 * number(directory, 2), len(tiff)) - 12
    for entry in range(directory + 2, last + 1, 12):
        if number(entry, 2) == ORIENTATION_TAG:
            kind, values = number(entry + 2, 2), number(entry + 4, 4)
            value = number(entry + 8, {3: 2, 4: 4}.get(kind, 0))  # SHORT or LONG
            return value if values == 1 and 1 <= value <= 8 else 1
    return 1
