"""Encoded pictures are looked at before they are sent, so that the one at fault can be named."""

import io
import os
from pathlib import Path

from PIL import Image

from rfd_tf.image_header import check_encoded
from rfd_tf.serving.errors import BadInputError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


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
    """Looks at a picture's header as exported models do, then decodes it once.

    Args:
        content: the file's bytes.
        name: for the message.

    Raises:
        BadInputError: if `image_header.check_encoded` refuses it, or it is damaged or cut short.
    """
    if reason := check_encoded(content):
        raise BadInputError(f"{name}: {reason}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.verify()  # finds PNG files without an end, which `load` does not
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
    except Exception as error:  # PIL's decoders raise whatever damaged bytes lead to
        raise BadInputError(f"{name}: it is damaged or cut short ({error})") from error
