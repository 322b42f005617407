"""JPEG files to measure with: real ones where there are some."""

import os
from pathlib import Path


def data_folder() -> Path | None:
    """`$RFD_TF_TEST_DATA`, else `../shared/data` beside the project; None where there is neither."""
    named = os.environ.get("RFD_TF_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def needed_data() -> Path:
    """The same; ends the program where there is none."""
    if (folder := data_folder()) is None:
        raise SystemExit("This needs real pictures: $RFD_TF_TEST_DATA names their folder (CONTRIBUTING.md).")
    return folder
