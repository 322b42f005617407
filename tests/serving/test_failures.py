"""Servers that fail, refuse, or answer something else; encryption and tokens."""

import dataclasses
import http.server
import socket
import threading

import grpc
import numpy as np
import pytest

from rfd_tf.features import open_feature_model
from rfd_tf.serving import BadInputError, ServingClient, ServingError
from tests.serving.certificates import Authority
from tests.serving.mean_model import NAME, write_means
from tests.serving.server import ModelServer

QUICK = {"backoff": 0.001, "retries": 2, "seed": 0}
IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4, 3)).astype("float32")
MEANS = IMAGES.mean(axis=(1, 2))
UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
BOTH = pytest.mark.parametrize("kind", ["grpc", "rest"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("means")
    write_means(folder, 1)
    return write_means(folder, 2, offset=10)


@pytest.fixture(scope="module")
def server(folder):
    with ModelServer(folder, NAME, {"stable": 1, "canary": 2}) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_leftovers(server):
    yield
    server.faults.clear()
    server.delay = 0.0


def address_of(server, kind):
    return getattr(server, f"{kind}_address")


def features(address, **options):
    with ServingClient(address, **{**QUICK, **options}) as client:
        return client.features(IMAGES)["features"]


@BOTH
def test_versions_and_labels(server, kind):
    address = address_of(server, kind)
    offsets = {"": 10, "/versions/1": 0, "/versions/2": 10, "/labels/stable": 0, "/labels/canary": 10}
    for ending, offset in offsets.items():
        np.testing.assert_allclose(features(address + ending), MEANS + offset, atol=1e-5)
    np.testing.assert_allclose(features(address, version=1), MEANS, atol=1e-5)
    np.testing.assert_allclose(features(address, label="stable"), MEANS, atol=1e-5)
    with ServingClient(f"{address}/versions/2") as client:
        assert client.status() == {2: "AVAILABLE"}
    with ServingClient(f"{address}/labels/stable") as client:
        assert client.ready()
        assert client.status() == {1: "AVAILABLE", 2: "AVAILABLE"}


@BOTH
def test_unknown_models(server, kind):
    address = address_of(server, kind)
    for wrong, message in (
        (address.replace(NAME, "other"), r"the server of 'other' has no such model.*Latest\(other\)"),
        (f"{address}/versions/3", r"has no such model.*Specific\(means, 3\)"),
        (f"{address}/labels/none", "refused the request.*label: none"),
    ):
        with ServingClient(wrong, **QUICK) as client:
            before = server.requests
            with pytest.raises(ServingError, match=message) as raised:
                client.features(IMAGES)
            assert not isinstance(raised.value, ValueError)
            assert server.requests - before == 1
            assert not client.ready()


@BOTH
@pytest.mark.parametrize("fault", [UNAVAILABLE, EXHAUSTED], ids=lambda code: code.name)
def test_what_passes_is_tried_again(server, kind, fault):
    with ServingClient(address_of(server, kind), **QUICK) as client:
        client.about()
        before = server.requests
        server.faults.extend([fault, fault])
        np.testing.assert_allclose(client.features(IMAGES)["features"], MEANS + 10, atol=1e-5)
        assert server.requests - before == 3


@BOTH
def test_failing_for_ever(server, kind):
    address = address_of(server, kind)
    with ServingClient(address, **QUICK) as client:
        client.about()
        before = server.requests
        server.faults.extend([UNAVAILABLE] * 10)
        with pytest.raises(ServingError, match=rf"^{address} is not available.*\(after 3 tries\)"):
            client.features(IMAGES)
        assert server.requests - before == 3


@BOTH
@pytest.mark.parametrize("fault", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
def test_refusals_are_final(server, kind, fault):
    with ServingClient(address_of(server, kind), **QUICK) as client:
        client.about()
        before = server.requests
        server.faults.append(fault)
        with pytest.raises(ServingError, match=r"(refused the request|failed).*: a fault of the test"):
            client.features(IMAGES)
        assert server.requests - before == 1


@BOTH
def test_silence_is_final(server, kind):
    with ServingClient(address_of(server, kind), retries=5, backoff=0.001) as client:
        client.about()
        before = server.requests
        client.options, server.delay = dataclasses.replace(client.options, timeout=0.5), 2.0
        with pytest.raises(ServingError, match=r"gave no answer within 0.5 s"):
            client.features(IMAGES)
        assert server.requests - before <= 1


@BOTH
def test_deadline_of_the_whole(server, kind):
    with ServingClient(address_of(server, kind), retries=100, backoff=0.2, seed=0) as client:
        client.about()
        client.options = dataclasses.replace(client.options, deadline=0.5)
        server.faults.extend([UNAVAILABLE] * 100)
        with pytest.raises(ServingError, match=r"no time is left|`deadline`\) is over|within 0.\d+ s"):
            client.features(IMAGES)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["grpc", "http", "grpcs", "https"])
def test_nobody_there(scheme):
    address = f"{scheme}://127.0.0.1:{free_port()}/{NAME}"
    with ServingClient(address, **QUICK) as client:
        assert not client.ready()
        with pytest.raises(ServingError, match=rf"^{address} is not .*refused.* \(after 3 tries\)"):
            client.features(IMAGES)
    with pytest.raises(OSError, match="is not available"):
        open_feature_model(address, **QUICK)


@BOTH
def test_server_that_comes_back(folder, kind):
    ports = {"grpc": {"grpc_port": free_port()}, "rest": {"rest_port": free_port()}}[kind]
    with ModelServer(folder, NAME, **ports) as first:
        client = ServingClient(address_of(first, kind), retries=20, backoff=0.05, seed=0)
        client.about()
    with pytest.raises(ServingError, match="is not available"):
        client._open.predict("serving_default", "image", IMAGES, ["features"], 5)
    with ModelServer(folder, NAME, **ports):
        np.testing.assert_allclose(client.features(IMAGES)["features"], MEANS + 10, atol=1e-5)
    client.close()
    with pytest.raises(ServingError, match="is closed"):
        client.features(IMAGES)


@BOTH
def test_models_that_answer_otherwise(tmp_path, kind):
    cases = [
        (
            {"outputs": {"features": (3,), "rotation": (2,)}},
            "lacks the output|refused the request",
        ),
        ({"outputs": {"features": (4,)}}, r"'features' must be of shape \(3, 4\). Received float32 of shape"),
        ({"outputs": {"features": (3, 1)}}, "must be of shape"),
        ({"outputs": None}, "gives no valid description"),
        ({"preprocessing": {}}, "gives no valid description"),
    ]
    if kind == "grpc":  # JSON does not tell 0 from 0.0
        cases.append(({"input": "uint8"}, "refused the request"))
    for version, (facts, _) in enumerate(cases, start=1):
        write_means(tmp_path, version, facts=facts)
    with ModelServer(tmp_path, NAME) as server:
        for version, (facts, message) in enumerate(cases, start=1):
            images = IMAGES.astype("uint8") if "input" in facts else IMAGES
            with (
                ServingClient(address_of(server, kind), version=version, **QUICK) as client,
                pytest.raises(ServingError, match=message),
            ):
                client.features(images)


@pytest.fixture
def odd_http_server():
    """Answers every request in the way that `answer` says: status, headers, body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(self.headers.get("Authorization"))
            status, headers, body = server.answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = seen
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "message", "requests"),
    [
        ((200, {}, b"<html>hello"), "not TensorFlow Serving's JSON", 1),
        ((200, {}, b"[]"), "not TensorFlow Serving's JSON", 1),
        ((200, {}, b"{}"), "holds no prediction for each image", 1),
        ((200, {}, b'{"predictions": [1, 2]}'), "holds no prediction for each image", 1),
        ((200, {}, b'{"predictions": [{"json": [["x"], 1]}]}'), "is not an array|no valid description", 1),
        ((200, {}, b" " * 70_000), "more than 65536 bytes", 1),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), r"failed \(HTTP 302\)", 1),
        ((403, {}, b"keep out"), "does not accept these credentials: keep out", 1),
        ((502, {}, b"<html>bad gateway"), r"not available \(HTTP 502\).*after 3 tries", 3),
        ((504, {}, b'{"error": "slow"}'), r"HTTP 504\): slow \(after 3 tries", 3),
        ((200, {"Content-Length": "50"}, b"{}"), "is not available.*after 3 tries", 3),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_model_server(odd_http_server, answer, message, requests):
    odd_http_server.answer = answer
    address = f"http://127.0.0.1:{odd_http_server.server_address[1]}/{NAME}"
    with ServingClient(address, max_message_bytes=65536, **QUICK) as client:
        with pytest.raises(ServingError, match=message):
            client.about()
        assert len(odd_http_server.seen) == requests


def test_answer_larger_than_the_limit(server):
    with ServingClient(server.grpc_address, max_message_bytes=64, **QUICK) as client:
        before = server.requests
        with pytest.raises(ServingError, match=r"a message is too large.*`max_message_bytes` is 64"):
            client.about()
        assert server.requests - before <= 1


@BOTH
def test_encryption(folder, tmp_path, kind):
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.sign("server")
    with ModelServer(folder, NAME, certificate=certificate, key=key) as server:
        address = address_of(server, kind)
        np.testing.assert_allclose(features(address, certificate=authority.path), MEANS + 10, atol=1e-5)
        for options in ({}, {"certificate": other.path}):
            with pytest.raises(ServingError, match=r"no encrypted connection(?!.*tries)"):
                features(address, **options)
        plain = address.replace("s://", "://")
        with pytest.raises(ServingError, match="is not available"):
            features(plain, retries=0)


@BOTH
def test_mutual_encryption(folder, tmp_path, kind):
    authority = Authority(tmp_path)
    certificate, key = authority.sign("server")
    own, own_key = authority.sign("client")
    with ModelServer(folder, NAME, certificate=certificate, key=key, authority=authority.path) as server:
        address = address_of(server, kind)
        known = {"certificate": authority.path, "client_certificate": own, "client_key": own_key}
        np.testing.assert_allclose(features(address, **known), MEANS + 10, atol=1e-5)
        with pytest.raises(ServingError, match=r"no encrypted connection|is not available"):
            features(address, certificate=authority.path, retries=0)


@BOTH
def test_tokens(folder, tmp_path, monkeypatch, kind):
    authority = Authority(tmp_path)
    certificate, key = authority.sign("server")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    with ModelServer(folder, NAME, certificate=certificate, key=key, token="secret") as server:
        address, known = address_of(server, kind), {"certificate": authority.path}
        np.testing.assert_allclose(features(address, token="secret", **known), MEANS + 10, atol=1e-5)
        for token in ("wrong", None):
            with pytest.raises(ServingError, match="requires a valid token") as raised:
                features(address, token=token, **known)
            assert "wrong" not in str(raised.value)
        monkeypatch.setenv("RFD_TF_SERVING_TOKEN", "secret")
        monkeypatch.setenv("RFD_TF_SERVING_CERTIFICATE", str(authority.path))
        with open_feature_model(address) as served:
            np.testing.assert_allclose(served(IMAGES)["features"], MEANS + 10, atol=1e-5)
    with ModelServer(folder, NAME, token="secret") as server:
        address = address_of(server, kind)
        with pytest.raises(BadInputError, match="is not sent unencrypted"):
            features(address, token="secret")
        assert len(features(address, token="secret", allow_plaintext_token=True)) == 3
