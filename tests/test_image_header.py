import re
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from rfd_tf.image_header import check_encoded
from tests.data.pictures import encoded, picture


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 9) + b"IDAT"


@pytest.mark.parametrize("size", [(1, 1), (40, 50), (33, 257)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0note"}),  # the extended header
    ],
)
def test_sizes_are_read_from_every_header(kind, options, size):
    content = encoded(picture(*size), kind, **options)
    height, width = size
    assert check_encoded(content) is None
    assert check_encoded(content, max_pixels=height * width) is None
    assert f"{width}x{height} pixels, more" in check_encoded(content, max_pixels=height * width - 1)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_modes_that_decode(mode):
    image = Image.fromarray(np.ones((4, 5), "uint16")) if mode == "I;16" else picture(4, 5).convert(mode)
    assert check_encoded(encoded(image, "PNG")) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is no picture", "no JPEG, PNG"),
        (encoded(picture(), "TIFF"), "no JPEG, PNG"),
        (encoded(picture(), "GIF"), "no JPEG, PNG"),
        (encoded(picture().convert("CMYK")), "CMYK"),
        (encoded(picture())[:10], "header cannot be read"),
        (encoded(picture(), "PNG")[:20], "header cannot be read"),
        (encoded(picture(), "WEBP")[:25], "header cannot be read"),
        (png_header(10_000, 10_000), "10000x10000 pixels, more than 64000000"),
        (png_header(2**31 - 1, 2**31 - 1), "pixels, more"),
        (png_header(20_000, 199), "more than 100 times"),
        (png_header(0, 5), "header cannot be read|no pixels"),
    ],
)
def test_refused(content, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PIL's own, of large pictures
        assert re.search(reason, check_encoded(content))


def test_paths(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture()))
    assert check_encoded(path) is None
    assert check_encoded(str(path)) is None
    path.write_bytes(b"nothing")
    assert "no JPEG" in check_encoded(path)
    assert "cannot be read (No such file" in check_encoded(tmp_path / "none.jpg")
    assert "cannot be read (Is a directory)" in check_encoded(tmp_path)


def test_every_cut_of_a_file_gets_an_answer():
    for kind in ("JPEG", "PNG", "BMP", "WEBP"):
        content = encoded(picture(4, 5), kind)
        for end in range(0, len(content), 7):
            check_encoded(content[:end])
    assert check_encoded(content[:3]) is not None
