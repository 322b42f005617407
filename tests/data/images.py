"""Small generated images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def random_image(height: int = 40, width: int = 50, seed: int = 0) -> Image.Image:
    """A smooth coloured RGB image."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype="uint8")
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    """`image` as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return file.getvalue()


_INVERSE = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def oriented(image: Image.Image, orientation: int, kind: str = "JPEG", order: str = ">", **options) -> bytes:
    """A file that shows `image`, its pixels stored as EXIF's `orientation` says, 1 to 8."""
    turn, exif = _INVERSE[orientation], Image.Exif()
    exif.endian = order
    exif[271], exif[274] = "a camera", orientation
    stored = image if turn is None else image.transpose(turn)
    return encoded(stored, kind, exif=exif, **options)


def animated_webp() -> bytes:
    """Two frames."""
    return encoded(random_image(8, 8), "WEBP", save_all=True, append_images=[random_image(8, 8, seed=1)])


def decoded(content: bytes) -> np.ndarray:
    """PIL's view of a file's bytes, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def write(root: Path, *paths: str) -> Path:
    """A different image at each of `paths` below `root`; the ending gives the format."""
    for seed, path in enumerate(paths):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        kind = "PNG" if path.lower().endswith(".png") else "BMP" if path.lower().endswith(".bmp") else "JPEG"
        target.write_bytes(encoded(random_image(seed=seed), kind))
    return root
