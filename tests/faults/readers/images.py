"""Images, in every decoder that meets them."""

import hashlib
import json
import struct
import zlib
from pathlib import Path

from tests.data.images import animated_webp, encoded, oriented, random_image
from tests.faults.fuzzing import Reader
from tests.faults.readers.json_documents import changed_documents

TOKENS = (
    b"\xff\xd8\xff",
    b"\xff\xc0",
    b"\xff\xc2",
    b"\xff\xd9",
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"VP8X",
    b"VP8L",
    b"Exif\0\0",
    b"eXIf",
)


def png(width: int, height: int, data: bytes = b"\0") -> bytes:
    """A PNG that claims these sides."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def good_images(folder: Path) -> list[bytes]:
    small = random_image(12, 15)
    kinds = [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
    ]
    kinds += [("WEBP", {"lossless": True}), ("WEBP", {})]
    files = [encoded(small, kind, **options) for kind, options in kinds]
    files += [
        encoded(small.convert(mode), kind) for mode, kind in (("CMYK", "JPEG"), ("L", "PNG"), ("P", "PNG"))
    ]
    files += [oriented(small, 6, kind, order) for kind in ("JPEG", "PNG", "WEBP") for order in "<>"]
    return [*files, animated_webp(), png(65_000, 65_000), png(1, 60_000), png(8_000, 8_000), b"", b"hello"]


def made_headers(seeds):
    """Headers of any size and layout, with little behind."""
    from hypothesis import strategies as st

    sides = st.sampled_from([0, 1, 2, 15, 1000, 8000, 65_535, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(
        0, 2**32 - 1
    )
    numbers = st.tuples(sides, sides)
    pngs = numbers.map(lambda n: png(*n))
    bmp = st.builds(
        lambda n, bits, rest: (
            b"BM" + bytes(12) + b"\x36\0\0\0\x28\0\0\0" + struct.pack("<2IHH", *n, 1, bits) + rest
        ),
        numbers,
        st.sampled_from([0, 1, 4, 8, 16, 24, 32, 64]),
        st.binary(max_size=80),
    )
    jpeg = st.builds(
        lambda n, channels, rest: (
            b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">2HB", n[0] % 65536, n[1] % 65536, channels) + rest
        ),
        numbers,
        st.integers(0, 255),
        st.binary(max_size=80),
    )
    webp = st.builds(
        lambda kind, body: (
            b"RIFF" + struct.pack("<I", len(body) + 12) + b"WEBP" + kind + struct.pack("<I", len(body)) + body
        ),
        st.sampled_from([b"VP8 ", b"VP8L", b"VP8X", b"ANIM"]),
        st.binary(max_size=60),
    )
    return st.one_of(pngs, bmp, jpeg, webp)


def _header(path: Path):
    from rfd_tf.image_header import check_encoded, exif_orientation

    assert 1 <= exif_orientation(path) <= 8
    reason = check_encoded(path)
    assert reason is None or 0 < len(reason) < 500
    assert (reason is None) == (check_encoded(path.read_bytes()) is None)


def _decoded_by_tensorflow(path: Path):
    from rfd_tf import image_header
    from rfd_tf.data.bad_images import unusable_image
    from rfd_tf.data.orientation import exif_orientation

    content = path.read_bytes()
    unusable_image(content)
    assert int(exif_orientation(content)) == image_header.exif_orientation(content)


def _prepared_for_training(path: Path):
    """Random crops, which decode a part of a JPEG only; the pipeline drops what raises."""
    import tensorflow as tf

    from rfd_tf.data import Preprocessing

    content = tf.constant(path.read_bytes())
    Preprocessing(8).train_image(content, tf.constant([0, 1]))


def _in_a_served_batch(path: Path):
    """What the signature `jpeg` of an exported model computes, between two good images."""
    import tensorflow as tf

    if not hasattr(_in_a_served_batch, "function"):
        from rfd_tf.data import Preprocessing
        from rfd_tf.data.preprocessing import eval_images

        spec = tf.TensorSpec([None], tf.string)
        recipe = Preprocessing(8, "random_crop", 9)
        _in_a_served_batch.function = tf.function(
            lambda files: eval_images(files, recipe), input_signature=[spec]
        )
    good = encoded(random_image(12, 15))
    images = _in_a_served_batch.function(tf.constant([good, path.read_bytes(), good])).numpy()
    assert images.shape == (3, 8, 8, 3)


def _by_the_client(path: Path):
    from rfd_tf.serving.client import check_image_file, read_image_file

    check_image_file(read_image_file(path, 0, 20 << 20), "an image")


def _for_calibration(path: Path):
    from zoo.rescaling import calibration_images

    return calibration_images(path.parent / "pictures", (8, 8), 1)


def _calibration_seeds(folder: Path) -> list[bytes]:
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "a.png").symlink_to(folder / "input")
    return good_images(folder)


def _tensorflow_errors() -> tuple[type[Exception], ...]:
    import tensorflow as tf

    return (tf.errors.InvalidArgumentError,)


def _finding_seeds(folder: Path) -> list[bytes]:
    listing = hashlib.sha256(b"a\0b\0").hexdigest()  # of `_TwoImages`
    return [json.dumps({"listing": listing, "images": 2, "bad": [[1, "b", "damaged"]]}).encode()]


def _kept_finding(path: Path):
    """The file of bad images: read if it fits, else made anew."""
    from rfd_tf.data import bad_images

    original = bad_images.find_bad_images
    bad_images.find_bad_images = lambda source: {}
    try:
        return bad_images._cached_bad_images(_TwoImages(), path)
    finally:
        bad_images.find_bad_images = original


class _TwoImages:
    def __len__(self):
        return 2

    def descriptions(self, indices):
        return ["ab"[index] for index in indices]


READERS = {
    "image_header": Reader(good_images, _header, (), "", TOKENS, made_headers),
    "image_tensorflow": Reader(
        good_images, _decoded_by_tensorflow, (), "", TOKENS, made_headers, frameworks=True
    ),
    "image_training": Reader(
        good_images, _prepared_for_training, _tensorflow_errors(), "", TOKENS, made_headers, frameworks=True
    ),
    "image_served": Reader(
        good_images, _in_a_served_batch, _tensorflow_errors(), "", TOKENS, made_headers, frameworks=True
    ),
    "image_client": Reader(good_images, _by_the_client, (ValueError,), "", TOKENS, made_headers),
    "image_calibration": Reader(
        _calibration_seeds, _for_calibration, (ValueError,), "", TOKENS, made_headers
    ),
    "bad_pictures_json": Reader(_finding_seeds, _kept_finding, (), ".json", (), changed_documents),
}
