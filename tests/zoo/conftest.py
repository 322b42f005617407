"""Every test has its own cache and leaves the registry as it was."""

import pytest

from zoo import registry


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RFD_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RFD_TF_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    return tmp_path / "cache" / "zoo"
