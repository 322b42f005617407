import io
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from rfd_tf.data.orientation import exif_orientation as exif_orientation_in_graphs
from rfd_tf.image_header import check_encoded, encoded_size, exif_orientation, upright
from tests.data.images import animated_webp, decoded, encoded, oriented, random_image


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
    content = encoded(random_image(*size), kind, **options)
    height, width = size
    assert check_encoded(content) is None
    assert check_encoded(content, max_pixels=height * width) is None
    assert f"{width}x{height} pixels, more" in check_encoded(content, max_pixels=height * width - 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind, orientation, tmp_path):
    for order in "<>":
        content = oriented(random_image(), orientation, kind, order)
        assert exif_orientation(content) == orientation
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(upright(decoded(content), orientation), shown)
        assert encoded_size(content, orientation=True) == (50, 40)
        assert encoded_size(content) == ((50, 40) if orientation < 5 else (40, 50))
    (tmp_path / "a").write_bytes(content)
    assert exif_orientation(tmp_path / "a") == orientation


def jpeg_with(*segments: bytes) -> bytes:
    """A JPEG with these segments, markers included, at its beginning."""
    lengths = (segment[:2] + struct.pack(">H", len(segment)) + segment[2:] for segment in segments)
    return b"\xff\xd8" + b"".join(lengths) + encoded(random_image())[2:]


def tiff(value: int = 6, kind: int = 3, count: int = 1, tag: int = 274, entries: int = 1) -> bytes:
    """A TIFF directory of one entry."""
    packed = struct.pack("<I" if kind == 4 else "<HH", *([value] if kind == 4 else [value, 0]))
    return b"II*\0" + struct.pack("<IH", 8, entries) + struct.pack("<HHI", tag, kind, count) + packed


@pytest.mark.parametrize(
    ("content", "orientation"),
    [
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff()), 6),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(kind=4)), 6),
        (jpeg_with(b"\xff\xe1http://ns.adobe.com/xap", b"\xff\xfenote", b"\xff\xe1Exif\0\0" + tiff()), 6),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(), b"\xff\xe1Exif\0\0" + tiff(3)), 6),
        (jpeg_with(*[b"\xff\xfe"] * 99, b"\xff\xe1Exif\0\0" + tiff()), 6),
        (jpeg_with(*[b"\xff\xfe"] * 100, b"\xff\xe1Exif\0\0" + tiff()), 1),
        (b"\xff\xd8\xff" + jpeg_with(b"\xff\xe1Exif\0\0" + tiff())[2:], 6),  # a byte that fills up
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(0)), 1),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(9)), 1),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(kind=1)), 1),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(count=2)), 1),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(entries=0)), 1),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(entries=65535)), 6),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff()[:-1]), 1),
        (jpeg_with(b"\xff\xe1Exif\0\0MM\0*\xff\xff\xff\xff"), 1),
        (jpeg_with(b"\xff\xe1Exif\0\0"), 1),
        (jpeg_with(b"\xff\xe1Exif\0\0" + tiff(tag=273)), 1),
        (encoded(random_image()), 1),
        (encoded(random_image(), "BMP"), 1),
        (b"\xff\xd8" + b"\xff" * 1000, 1),
        (b"\xff\xd8\xff\xe1", 1),
        (b"", 1),
    ],
)
def test_orientation_of_odd_files(content, orientation):
    assert exif_orientation(content) == orientation
    assert int(exif_orientation_in_graphs(tf.constant(content))) == orientation


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_modes_that_decode(mode):
    image = Image.fromarray(np.ones((4, 5), "uint16")) if mode == "I;16" else random_image(4, 5).convert(mode)
    assert check_encoded(encoded(image, "PNG")) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is not an image", "no JPEG, PNG"),
        (encoded(random_image(), "TIFF"), "no JPEG, PNG"),
        (encoded(random_image(), "GIF"), "no JPEG, PNG"),
        (animated_webp(), "animated WebP"),
        (encoded(random_image())[:10], "header cannot be read"),
        (encoded(random_image(), "PNG")[:20], "header cannot be read"),
        (encoded(random_image(), "WEBP")[:25], "header cannot be read"),
        (png_header(10_000, 10_000), "10000x10000 pixels, more than 64000000"),
        (png_header(2**31 - 1, 2**31 - 1), "pixels, more"),
        (png_header(20_000, 199), "more than 100 times"),
        (png_header(0, 5), "header cannot be read|no pixels"),
    ],
)
def test_refused(content, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PIL's own, of large images
        assert re.search(reason, check_encoded(content))


def test_paths(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(random_image()))
    assert check_encoded(path) is None
    assert check_encoded(str(path)) is None
    path.write_bytes(b"nothing")
    assert "no JPEG" in check_encoded(path)
    assert "cannot be read (No such file" in check_encoded(tmp_path / "none.jpg")
    assert "cannot be read (Is a directory)" in check_encoded(tmp_path)


def test_every_cut_of_a_file_gets_an_answer():
    for kind in ("JPEG", "PNG", "BMP", "WEBP"):
        content = encoded(random_image(4, 5), kind)
        for end in range(0, len(content), 7):
            check_encoded(content[:end])
    assert check_encoded(content[:3]) is not None
