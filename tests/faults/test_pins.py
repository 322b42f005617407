"""What is installed is what `setup.py` asks for."""

import importlib.metadata
import runpy
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

SETUP = Path(__file__).parents[2] / "setup.py"
NO_UPPER_BOUND = {"cryptography", "importlib-resources"}  # each major version there brings security fixes


@pytest.fixture(scope="module")
def asked():
    """The requirements, and those of the tests, on this platform."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **options: given.update(options))
        runpy.run_path(str(SETUP))
    lines = (*given["install_requires"], *given["extras_require"]["test"])
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def test_every_requirement_is_met(asked):
    for requirement in asked:
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: {version} is there"


def test_every_requirement_has_bounds(asked):
    for requirement in asked:
        operators = {part.operator for part in requirement.specifier}
        assert operators & {">=", "=="}, f"{requirement} has no lower bound"
        assert operators & {"<", "=="} or requirement.name in NO_UPPER_BOUND, (
            f"{requirement} has no upper bound"
        )
