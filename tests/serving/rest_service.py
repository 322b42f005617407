"""TensorFlow Serving's REST interface, by its documentation (`api_rest.md`)."""

import base64
import http.server
import re
from collections.abc import Callable
from urllib.parse import unquote

import grpc
import numpy as np
import orjson
import tensorflow as tf
from tensorflow_serving.apis import model_pb2

from tests.serving.served_models import Refusal, ServedModels

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICT = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}:predict")
STATUS = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}")
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def rest_handler(models: ServedModels, admit: Callable[[str | None], None]) -> type:
    """A handler class for `http.server`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer(STATUS, lambda spec: _status(models, spec))

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def predict(spec):
                admit(self.headers.get("Authorization"))
                return _predict(models, spec, content)

            self._answer(PREDICT, predict)

        def _answer(self, pattern: re.Pattern, action: Callable[[model_pb2.ModelSpec], dict]):
            try:
                if (match := pattern.fullmatch(self.path)) is None:
                    message = f"Malformed request: {self.command} {self.path}"
                    raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)
                status, answer = 200, action(_spec(match))
            except Refusal as refusal:
                status, answer = HTTP_STATUS[refusal.code], {"error": str(refusal)}
            # Floats in the fewest digits that give the same float32 again, and columns with a line for every
            # number, as the real server writes them.
            option = orjson.OPT_SERIALIZE_NUMPY | (0 if "predictions" in answer else orjson.OPT_INDENT_2)
            content = orjson.dumps(answer, option=option)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


def _spec(match: re.Match) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(match["name"]))
    if match["version"]:
        spec.version.value = int(match["version"])
    if match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


def _status(models: ServedModels, spec: model_pb2.ModelSpec) -> dict:
    versions = models.versions if spec.name == models.name else []
    if spec.HasField("version"):
        versions = [version for version in versions if version == spec.version.value]
    if not versions:
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
    fine = {"error_code": "OK", "error_message": ""}
    return {
        "model_version_status": [
            {"version": str(version), "state": "AVAILABLE", "status": fine} for version in versions
        ]
    }


def _predict(models: ServedModels, spec: model_pb2.ModelSpec, content: bytes) -> dict:
    version = models.version(spec)
    try:
        request = orjson.loads(content)
    except ValueError as error:
        raise _refused(f"JSON Parse error: {error}") from error
    in_rows = "instances" in request
    if in_rows == ("inputs" in request):
        raise _refused("Request must have one of 'instances' and 'inputs'")
    signature = request.get("signature_name", "")
    specs = models.inputs(version, signature)
    inputs = _columns(request["instances"], specs) if in_rows else request["inputs"]
    if not isinstance(inputs, dict):
        inputs = {next(iter(specs)): inputs}
    tensors = {name: _tensor(name, values, specs) for name, values in inputs.items()}
    found = {name: _json(value) for name, value in models.predict(version, signature, tensors, []).items()}
    if not in_rows:
        return {"outputs": found if len(found) > 1 else next(iter(found.values()))}
    if len(found) == 1:
        return {"predictions": next(iter(found.values()))}
    return {"predictions": [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]}


def _columns(rows: list, specs: dict):
    if rows and isinstance(rows[0], dict) and "b64" not in rows[0]:
        return {name: [row[name] for row in rows] for name in rows[0]}
    return rows


def _tensor(name: str, values, specs: dict) -> tf.Tensor:
    if name not in specs:
        raise _refused(f"JSON object: does not have named input: {name}")
    dtype = specs[name].dtype
    try:
        if dtype == tf.string and specs[name].shape.rank == 0:
            return tf.constant(_bytes(values))
        if dtype == tf.string:
            return tf.constant([_bytes(value) for value in values], tf.string, shape=[len(values)])
        array = np.asarray(values)
        if dtype.is_integer and array.dtype.kind not in "iu":
            raise ValueError("not whole numbers")
        return tf.constant(array.astype(dtype.as_numpy_dtype))
    except (ValueError, TypeError) as error:
        raise _refused(f"JSON Value: is not of expected type: {dtype.name} ({error})") from error


def _bytes(value) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return value.encode()


def _json(value: np.ndarray) -> np.ndarray | list[str] | int | float:
    if value.ndim == 0:
        return value.item()
    return [item.decode() for item in value] if value.dtype == object else value


def _refused(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)
