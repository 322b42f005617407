"""Encoded pictures are looked at before they are sent, so that the one at fault can be named."""

import io
import os
from pathlib import Path

from PIL import Image

from rfd_tf.serving.errors import BadInputError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MAX_PIXELS = 64_000_000  # as the exported models, see `data.picture_checks`
MAX_ASPECT_RATIO = 200


def read_image_file(given: str | os.PathLike | bytes, position: int, max_bytes: int) -> bytes:
    """The bytes of a path, or `given` itself.

    Raises:
        BadInputError: if the file cannot be read, or has more than `max_bytes` bytes.
    """
    name = image_name(given, position)
    if isinstance(given, bytes | bytearray | memoryview):
        size = len(given)
    elif isinstance(given, str | os.PathLike):
        try:
            size = Path(given).stat().st_size
        except OSError as error:
            raise BadInputError(f"{name}: {error.strerror or error}") from error
    else:
        raise BadInputError(f"{name} must be a path or bytes. Received: {type(given).__name__}")
    if size > max_bytes:
        raise BadInputError(f"{name} has {size} bytes, more than {max_bytes} (`max_image_bytes`)")
    try:
        return Path(given).read_bytes() if isinstance(given, str | os.PathLike) else bytes(given)
    except OSError as error:
        raise BadInputError(f"{name}: {error.strerror or error}") from error


def image_name(given: object, position: int) -> str:
    """How messages call a picture: its path, or its place in the batch, counted from 0."""
    return os.fspath(given) if isinstance(given, str | os.PathLike) else f"image {position} of the batch"


def check_image_file(content: bytes, name: str) -> None:
    """Decodes a picture once, after a look at its header.

    Args:
        content: the file's bytes.
        name: for the message.

    Raises:
        BadInputError: if it is empty, no picture of `FORMATS`, CMYK, damaged or cut short, has more than
            `MAX_PIXELS`, or one side more than `MAX_ASPECT_RATIO` times the other.
    """
    if not content:
        raise BadInputError(f"{name} is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_header(image, name)
            image.verify()  # finds PNG files without an end, which `load` does not
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
    except BadInputError:
        raise
    except Image.DecompressionBombError as error:
        raise BadInputError(f"{name} is too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise BadInputError(f"{name} is no JPEG, PNG, BMP or WebP picture") from error
    except Exception as error:  # PIL's decoders raise whatever damaged bytes lead to
        raise BadInputError(f"{name} is damaged or cut short ({error})") from error


def _check_header(image: Image.Image, name: str) -> None:
    width, height = image.size
    if image.mode in ("CMYK", "YCCK"):
        raise BadInputError(f"{name} is a CMYK picture, to be converted to RGB")
    if width * height > MAX_PIXELS:
        raise BadInputError(f"{name} has {width} x {height} pixels, more than {MAX_PIXELS} in all")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BadInputError(f"{name} has {width} x {height} pixels: too long and narrow")
