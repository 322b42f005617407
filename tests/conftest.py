"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data and weights; tests that need it are skipped where it is absent."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    path = Path(os.environ.get("RFD_TF_TEST_DATA") or default)
    if not path.is_dir():
        pytest.skip(f"no test data at {path}: set RFD_TF_TEST_DATA")
    return path
