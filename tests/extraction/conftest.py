import pytest

from tests.extraction.tiny import write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("model") / "run")
