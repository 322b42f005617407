"""Addresses and the client's arguments; nothing is sent."""

import subprocess
import sys

import pytest

from rfd_tf.serving import ServingClient, ServingError
from rfd_tf.serving.transport import parse_address


@pytest.mark.parametrize(
    ("text", "target", "path"),
    [
        ("grpc://host:8500/net", "host:8500", "/v1/models/net"),
        ("https://host:443/net-1.5_b/", "host:443", "/v1/models/net-1.5_b"),
        ("http://10.0.0.1:8501/net/versions/12", "10.0.0.1:8501", "/v1/models/net/versions/12"),
        ("grpcs://[::1]:8500/net/labels/stable", "[::1]:8500", "/v1/models/net/labels/stable"),
        ("http://host:1/n%t/labels/a b", "host:1", "/v1/models/n%25t/labels/a%20b"),
    ],
)
def test_parts(text, target, path):
    address = parse_address(text)
    assert (address.target, address.rest_path) == (target, path)
    assert address.is_grpc == text.startswith("grpc")
    assert address.is_encrypted == (text.split(":")[0] in ("grpcs", "https"))


def test_version_and_label_as_arguments():
    assert parse_address("grpc://h:1/net", version=3).version == 3
    assert parse_address("grpc://h:1/net/versions/3", version=3).version == 3
    assert parse_address("grpc://h:1/net", label="stable").label == "stable"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("host:8500/net", {}, "not a server's address"),
        ("ftp://host:8500/net", {}, "not a server's address; its form is SCHEME://HOST:PORT/NAME"),
        ("grpc://host/net", {}, "not a server's address"),
        ("grpc://:8500/net", {}, "not a server's address"),
        ("grpc://host:85000/net", {}, "not a server's address"),
        ("grpc://host:8500", {}, "lacks the model's name"),
        ("grpc://host:8500/", {}, "lacks the model's name"),
        ("grpc://host:8500/net/3", {}, "names no model"),
        ("grpc://host:8500/net/versions/new", {}, "names no model"),
        ("http://host:8501/v1/models/net", {}, "names no model"),
        ("http://host:8501/net?version=3", {}, "not a server's address"),
        ("http://me:secret@host:8501/net", {}, "no user or password"),
        ("grpc://h:1/net/versions/3", {"version": 4}, "gives the version 3, the argument 4"),
        ("grpc://h:1/net/versions/3", {"label": "stable"}, "exclude each other"),
        ("grpc://h:1/net", {"version": 3, "label": "stable"}, "exclude each other"),
    ],
)
def test_bad_addresses(text, arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_address(text, **arguments)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("http://h:1/net", {"timeout": 0}, "`timeout` must be positive. Received: timeout=0"),
        ("http://h:1/net", {"deadline": -1}, "`deadline` must be positive"),
        ("http://h:1/net", {"max_batch": 0}, "`max_batch` must be positive"),
        ("http://h:1/net", {"max_message_bytes": 0}, "`max_message_bytes` must be positive"),
        ("http://h:1/net", {"retries": -1}, "`retries` must not be negative"),
        ("http://h:1/net", {"token": "abc"}, "not sent unencrypted to http://h:1/net: use https://"),
        ("https://h:1/net", {"token": "a\nb"}, "printable ASCII"),
        ("https://h:1/net", {"token": ""}, "printable ASCII"),
        ("http://h:1/net", {"certificate": "ca.pem"}, "`certificate` needs an encrypted address"),
        ("https://h:1/net", {"certificate": "nowhere.pem"}, "`certificate`: no file at nowhere.pem"),
        ("https://h:1/net", {"client_key": __file__}, "one is missing"),
    ],
)
def test_bad_arguments(address, options, message):
    with pytest.raises(ValueError, match=message):
        ServingClient(address, **options)


def test_rest_loads_no_tensorflow():
    code = "import sys; from rfd_tf.serving import ServingClient; ServingClient('http://127.0.0.1:1/net'); "
    code += "print([name for name in ('tensorflow', 'keras', 'grpc') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_grpc_without_its_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "rfd_tf.serving.grpc_transport", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ServingError, match=r"pip install 'rfd_tf\[serving\]'"):
        ServingClient("grpc://h:1/net")
    ServingClient("http://h:1/net").close()
