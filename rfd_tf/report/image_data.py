"""Pictures as data URIs."""

import base64
import io

import numpy as np
from PIL import Image

_FILTERS_WIDTH = 480  # pixels that a grid of filters is enlarged to, about
_LOSSLESS_BELOW = 48  # pixels; JPEG would blur pictures smaller than that


def picture_uri(pixels: np.ndarray, size: int | None = None) -> str:
    """A data URI of uint8 [H, W, 3], JPEG, or PNG where it is small; shrunk to `size` pixels if larger."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    kind = "PNG" if image.width < _LOSSLESS_BELOW else "JPEG"
    if size is not None and image.width > size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return _uri(image, kind)


def filters_uri(filters: np.ndarray) -> tuple[str, int, int]:
    """A grid of filters [kh, kw, in, out] as (data URI, width, height).

    Each filter is scaled for itself, zero in the middle of the range; gaps are transparent. Inputs other than
    three channels are averaged to grey.
    """
    height, width, channels, count = filters.shape
    if channels != 3:
        filters = np.repeat(filters.mean(axis=2, keepdims=True), 3, axis=2)
    columns = int(np.ceil(np.sqrt(count * 1.6)))
    scale = max(1, round(_FILTERS_WIDTH / (columns * (width + 1))))
    limit = np.maximum(np.abs(filters).max(axis=(0, 1, 2)), 1e-12)
    tiles = np.rint(127.5 + 127.5 * filters / limit).astype("uint8").transpose(3, 0, 1, 2)
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    gap = max(2, scale // 2)
    step_y, step_x = height * scale + gap, width * scale + gap
    rows = -(-count // columns)
    grid = np.zeros((rows * step_y - gap, columns * step_x - gap, 4), dtype="uint8")
    for position, tile in enumerate(tiles):
        top, left = position // columns * step_y, position % columns * step_x
        grid[top : top + height * scale, left : left + width * scale, :3] = tile
        grid[top : top + height * scale, left : left + width * scale, 3] = 255
    return _uri(Image.fromarray(grid), "PNG"), grid.shape[1], grid.shape[0]


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 82, "optimize": True} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
