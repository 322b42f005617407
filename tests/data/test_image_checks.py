"""Which files are refused before they are decoded; PIL says how large they are."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.data import bad_images
from rfd_tf.data.bad_images import image_problem, unusable_image
from tests.data.images import animated_webp


def encoded(width: int, height: int, kind: str, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, "uint8")).convert(mode).save(file, kind, **options)
    return file.getvalue()


GOOD = {
    "jpeg": encoded(61, 37, "JPEG"),
    "progressive": encoded(61, 37, "JPEG", progressive=True),
    "grey jpeg": encoded(61, 37, "JPEG", "L"),
    "cmyk jpeg": encoded(61, 37, "JPEG", "CMYK"),
    "png": encoded(61, 37, "PNG"),
    "palette": encoded(61, 37, "PNG", "P"),
    "alpha": encoded(61, 37, "PNG", "RGBA"),
    "bmp": encoded(61, 37, "BMP"),
    "webp": encoded(61, 37, "WEBP"),
    "lossless webp": encoded(61, 37, "WEBP", lossless=True),
    "extended webp": encoded(61, 37, "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_sizes_are_read_from_headers(kind, monkeypatch):
    """With a limit just below the image's size it is refused by that size, with the very size it is not."""
    monkeypatch.setattr(bad_images, "MAX_PIXELS", 61 * 37)
    assert unusable_image(GOOD[kind]) == ""
    monkeypatch.setattr(bad_images, "MAX_PIXELS", 61 * 37 - 1)
    assert image_problem(tf.constant(GOOD[kind])).numpy().decode() == "61 x 37 pixels, more than 2256 in all"


def test_a_bitmap_stored_from_the_top_has_a_negative_height(monkeypatch):
    content = bytearray(GOOD["bmp"])
    content[22:26] = struct.pack("<i", -37)
    assert Image.open(io.BytesIO(content)).size == (61, 37)
    monkeypatch.setattr(bad_images, "MAX_PIXELS", 10)
    assert unusable_image(bytes(content)).startswith("61 x 37 pixels")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "an empty file"),
        (b"GET / HTTP/1.1", "neither JPEG, PNG, BMP nor WebP"),
        (encoded(8, 8, "GIF"), "neither JPEG, PNG, BMP nor WebP"),
        (animated_webp(), "an animated WebP"),
        (encoded(1, 201, "PNG"), "1 x 201 pixels, too long and narrow"),
        (GOOD["jpeg"][:4], "damaged or cut short"),
        (GOOD["jpeg"][: len(GOOD["jpeg"]) // 2], "damaged or cut short"),
        (GOOD["png"][:18], "damaged or cut short"),
        (GOOD["png"][:60], "damaged or cut short"),
        (GOOD["webp"][:20], "damaged or cut short"),
        (b"BM", "damaged or cut short"),
    ],
)
def test_refused(content, problem):
    assert unusable_image(content) == problem


def test_limit_is_64_megapixels():
    header = GOOD["png"][:16] + struct.pack(">II", 8000, 8001)
    assert unusable_image(header) == "8000 x 8001 pixels, more than 64000000 in all"
    assert unusable_image(GOOD["png"][:16] + struct.pack(">II", 8000, 8000)) == "damaged or cut short"
    assert unusable_image(encoded(1, 100, "PNG")) == ""
