"""A stand-in for TensorFlow Serving's model server, which runs real SavedModels.

    python -m tests.serving.server --saved_model=DIR/saved_model --name=NAME [--grpc_port=N] [--rest_port=N]

serves every version below the folder until it is interrupted. In tests: `with ModelServer(...) as server`.
"""

import collections
import contextlib
import http.server
import signal
import socket
import ssl
import sys
import threading
import time
import weakref
from concurrent import futures
from pathlib import Path

import grpc
from absl import app, flags
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from tests.serving.grpc_services import ModelService, PredictionService
from tests.serving.rest_service import rest_handler
from tests.serving.served_models import Refusal, ServedModels

MAX_MESSAGE_BYTES = 2**31 - 1  # as the real one


class ModelServer:
    """gRPC and REST at one address of this machine.

    Args:
        folder: holds the numbered versions.
        name: of the model.
        labels: label -> version.
        grpc_port, rest_port: 0 for any.
        certificate, key: PEM files, for TLS on both.
        authority: PEM file; clients must show a certificate that it signed.
        token: that clients must show.
        host: the address.

    Attributes:
        requests: number of predictions asked for so far, refused ones included.
        faults: codes that the next predictions are refused with.
        delay: seconds that each prediction takes besides.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        labels: dict[str, int] | None = None,
        grpc_port: int = 0,
        rest_port: int = 0,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
        authority: Path | None = None,
        token: str | None = None,
        host: str = "127.0.0.1",
    ):
        self.requests, self.delay = 0, 0.0
        self.faults: collections.deque[grpc.StatusCode] = collections.deque()
        self._token = token
        self._secure = "s" if certificate else ""
        self._name = name
        models = ServedModels(folder, name, labels)
        self._grpc = self._grpc_server(models, certificate, key, authority)
        port = self._grpc[1](f"{host}:{grpc_port}")
        self.grpc_address = f"grpc{self._secure}://{host}:{port}/{name}"
        handler = rest_handler(models, self._admit)
        self._rest = _HttpServer((host, rest_port), handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            if authority:
                context.load_verify_locations(authority)
                context.verify_mode = ssl.CERT_REQUIRED
            self._rest.socket = context.wrap_socket(self._rest.socket, server_side=True)
        self.rest_address = f"http{self._secure}://{host}:{self._rest.server_address[1]}/{name}"

    def __enter__(self):
        self._grpc[0].start()
        threading.Thread(target=self._rest.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._grpc[0].stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()

    def _grpc_server(self, models, certificate, key, authority):
        """The server, and what gives it a port."""
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
        prediction = PredictionService(models, self._admit)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(models), server)
        if certificate is None:
            return server, server.add_insecure_port
        pair = (Path(key).read_bytes(), Path(certificate).read_bytes())
        root = None if authority is None else Path(authority).read_bytes()
        credentials = grpc.ssl_server_credentials([pair], root, require_client_auth=root is not None)
        return server, lambda address: server.add_secure_port(address, credentials)

    def _admit(self, authorization: str | None) -> None:
        self.requests += 1
        if self._token is not None and authorization != f"Bearer {self._token}":
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, "a token is needed")
        if self.faults:
            raise Refusal(self.faults.popleft(), "a fault of the test")
        time.sleep(self.delay)


class _HttpServer(http.server.ThreadingHTTPServer):
    """Ends open connections when it ends, as a process does."""

    daemon_threads = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._connections = weakref.WeakSet()

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def server_close(self):
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def main(argv: list[str]) -> int:
    folder = Path(flags.FLAGS.saved_model)
    labels = {label: int(version) for label, version in (pair.split(":") for pair in flags.FLAGS.labels)}
    ports = flags.FLAGS.grpc_port, flags.FLAGS.rest_port
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ModelServer(folder, flags.FLAGS.name, labels, *ports, host=flags.FLAGS.host) as server:
        print(f"{server.grpc_address}\n{server.rest_address}", flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("saved_model", None, "folder of the numbered versions", required=True)
    flags.DEFINE_string("name", None, "the model's name", required=True)
    flags.DEFINE_list("labels", [], "LABEL:VERSION,...")
    flags.DEFINE_string("host", "127.0.0.1", "the address")
    flags.DEFINE_integer("grpc_port", 0, "0 for any")
    flags.DEFINE_integer("rest_port", 0, "0 for any")
    app.run(main, sys.argv)
