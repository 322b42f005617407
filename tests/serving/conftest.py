"""A tiny exported model, and a server that runs it."""

import pytest

from tests.serving.exported import NAME, export, tiny_feature_model
from tests.serving.server import ModelServer


@pytest.fixture(scope="session")
def feature_model():
    return tiny_feature_model()


@pytest.fixture(scope="session")
def exported(feature_model, tmp_path_factory):
    return export(feature_model, tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def server(exported):
    with ModelServer(exported / "saved_model", NAME, {"stable": 1}) as server:
        yield server


@pytest.fixture(params=["grpc", "rest"])
def address(request, server):
    return getattr(server, f"{request.param}_address")
