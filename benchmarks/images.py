"""JPEG files to measure with: real ones where there are some."""

import os
from pathlib import Path

from PIL import Image


def data_folder() -> Path | None:
    """`$RFD_TF_TEST_DATA`, else `../shared/data` beside the project; None where there is neither."""
    named = os.environ.get("RFD_TF_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def needed_data() -> Path:
    """The same; ends the program where there is none."""
    if (folder := data_folder()) is None:
        raise SystemExit("This needs real images: $RFD_TF_TEST_DATA names their folder (CONTRIBUTING.md).")
    return folder


def write_mosaics(files: list[Path], folder: Path, count: int = 64, across: int = 4) -> None:
    """Images of a camera's size, 2000 x 1500: `across` x `across` of the files each, side by side."""
    width, height, each = 500, 375, across**2
    for number in range(count):
        mosaic = Image.new("RGB", (across * width, across * height))
        for place in range(each):
            with Image.open(files[(number * each + place) % len(files)]) as image:
                tile = image.resize((width, height))
            mosaic.paste(tile, (place % across * width, place // across * height))
        mosaic.save(folder / f"{number:03}.jpg", quality=90)
