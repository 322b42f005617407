"""Fixtures for every test."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real images: `$RFD_TF_TEST_DATA`, else `shared/data` beside the repository."""
    folder = Path(os.environ.get("RFD_TF_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (set RFD_TF_TEST_DATA)")
    return folder


def pytest_terminal_summary(terminalreporter):
    """Adds up what tests recorded as `count: WHAT` (kills survived, inputs fuzzed, requests served)."""
    counts: dict[str, int] = {}
    lines: list[str] = []
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", []):
            if name.startswith("count: "):
                what = name.removeprefix("count: ")
                counts[what] = counts.get(what, 0) + value
            elif name.startswith("measured: "):
                lines.append(f"{name.removeprefix('measured: ')}: {value}")
    if counts or lines:
        terminalreporter.section("faults")
        for line in [*(f"{what}: {count:,}" for what, count in counts.items()), *lines]:
            terminalreporter.write_line(line)
