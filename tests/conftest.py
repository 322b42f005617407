"""Fixtures for every test."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real pictures: `$RFD_TF_TEST_DATA`, else `shared/data` beside the repository."""
    folder = Path(os.environ.get("RFD_TF_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (set RFD_TF_TEST_DATA)")
    return folder
