"""A few real images for calibration."""

from pathlib import Path

import numpy as np
from PIL import Image

from rfd_tf.image_header import check_encoded, exif_orientation, upright
from zoo.errors import ZooError
from zoo.preprocessing import Preprocessing

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp"}


def calibration_images(source: str | Path, size: tuple[int, int], count: int) -> np.ndarray:
    """Up to `count` images, resized and normalised as the zoo's networks expect, float32 [N, H, W, 3].

    Args:
        source: a folder, searched with its sub-folders in sorted order, or a `.npy`: uint8 RGB [N, H, W, 3].
        size: (height, width).
        count: how many, evenly spread over what is there.

    Raises:
        ZooError: if there are none, or one cannot be read.
    """
    source = Path(source)
    if source.suffix == ".npy":
        pictures = _from_array(source, count)
    elif source.is_dir():
        files = sorted(file for file in source.rglob("*") if file.suffix.lower() in _ENDINGS)
        pictures = [_open(file) for file in _spread(files, count)]
    else:
        raise ZooError(f"{source}: neither a folder of pictures nor a .npy file")
    if not pictures:
        raise ZooError(f"{source}: has no pictures ({', '.join(sorted(_ENDINGS))})")
    height, width = size
    resized = [np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)) for picture in pictures]
    return Preprocessing(input_size=(height, width))(np.stack(resized))


def _spread(items, count: int) -> list:
    positions = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    return [items[position] for position in positions] if len(items) else []


def _from_array(path: Path, count: int) -> list[Image.Image]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # an array of plain numbers, as long as it says
    except Exception as error:  # NumPy's reader of headers raises whatever the bytes lead it to
        raise ZooError(f"{path}: is no .npy file that can be read ({error})") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise ZooError(f"{path}: must be uint8 [N, H, W, 3]. Received: {array.dtype} {array.shape}")
    return [Image.fromarray(image) for image in _spread(array, count)]


def _open(path: Path) -> Image.Image:
    reason = check_encoded(path)
    try:
        if not reason:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            return Image.fromarray(np.ascontiguousarray(upright(pixels, exif_orientation(path))))
    except Exception as error:  # PIL's decoders raise whatever damaged bytes lead to
        reason = str(error)
    raise ZooError(f"{path}: cannot be read as a picture ({reason})")
