"""What an encoded picture's header tells, before anything is decoded."""

import io
import os
from typing import BinaryIO

from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin

MAX_PIXELS = 64_000_000  # 192 MB decoded, 768 MB while it is resized
MAX_ASPECT = 100  # long side over short side, which resizing by the short side multiplies

_READERS = {
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}


def check_encoded(
    data: bytes | str | os.PathLike, max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT
) -> str | None:
    """Why an encoded picture is refused, in a few words, or None.

    Only the header is read, so a picture that passes may still be cut short; decoding tells. Refused are:
    what is no JPEG, PNG, BMP or WebP, by content; CMYK, whose colours depend on a profile that decoders
    here ignore; and pictures so large or long that decoding or resizing them would exhaust the memory.

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


def encoded_size(data: bytes | str | os.PathLike) -> tuple[int, int]:
    """(width, height) of a picture, as of `check_encoded`; ValueError where that has something to say."""
    if problem := check_encoded(data):
        raise ValueError(problem)
    with io.BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as file:
        width, height, _ = _size_and_mode(file, file.read(30))
    return width, height


def _check(file: BinaryIO, max_pixels: int, max_aspect: float) -> str | None:
    start = file.read(30)
    if not start:
        return "it is empty"
    try:
        width, height, mode = _size_and_mode(file, start)
    except Exception as error:  # PIL's readers raise whatever the bytes lead them to
        return f"its header cannot be read ({error or type(error).__name__})"
    if mode is None:
        return "it is no JPEG, PNG, BMP or WebP picture"
    if mode == "CMYK":
        return "it is in CMYK colours: convert it to RGB"
    if width < 1 or height < 1:
        return f"it has no pixels ({width}x{height})"
    if width * height > max_pixels:
        return f"it has {width}x{height} pixels, more than {max_pixels}"
    if max(width, height) > max_aspect * min(width, height):
        return f"it has {width}x{height} pixels, a side more than {max_aspect:g} times the other"
    return None


def _size_and_mode(file: BinaryIO, start: bytes) -> tuple[int, int, str | None]:
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return *_webp_size(start), "RGB"
    for signature, reader in _READERS.items():
        if start.startswith(signature):
            file.seek(0)
            # Not `Image.open`, which warns of large pictures and refuses at limits of its own.
            with reader(file) as image:
                return *image.size, image.mode
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
