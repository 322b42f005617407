"""Real files to begin with, where they are there."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[3]


def real(*patterns: str) -> list[bytes]:
    """Contents of the test data's files of these patterns; none without the data."""
    folder = Path(os.environ.get("RFD_TF_TEST_DATA") or ROOT / "shared" / "data")
    if not folder.is_dir() and (ROOT.parent / "shared" / "data").is_dir():
        folder = ROOT.parent / "shared" / "data"
    return [path.read_bytes() for pattern in patterns for path in sorted(folder.glob(pattern))]
