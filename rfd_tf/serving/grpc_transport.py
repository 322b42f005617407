"""TensorFlow Serving's gRPC interface."""

import math
from pathlib import Path

import numpy as np

from rfd_tf.serving.transport import (
    Address,
    ClientOptions,
    ServingError,
    TransientServingError,
    Transport,
    one_line,
)

try:
    import grpc
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
except ImportError as error:
    raise ServingError(
        f"gRPC needs TensorFlow Serving's protocols ({error}): pip install 'rfd_tf[serving]'"
    ) from error

from tensorflow import make_ndarray, make_tensor_proto

# A channel waits before it connects anew, and fails meanwhile; its own first pause of 1 s would make the
# earlier ones of our retries useless.
_RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 2000))
_REFUSALS = {
    grpc.StatusCode.NOT_FOUND: "has no such model, or has not loaded it yet",
    grpc.StatusCode.UNAUTHENTICATED: "requires a valid token or certificate",
    grpc.StatusCode.PERMISSION_DENIED: "does not accept these credentials",
    grpc.StatusCode.INVALID_ARGUMENT: "refused the request",
    grpc.StatusCode.FAILED_PRECONDITION: "refused the request",
    grpc.StatusCode.UNIMPLEMENTED: "is not TensorFlow Serving",
}


class GrpcTransport(Transport):
    """Requests over one channel, which threads may share.

    Args:
        address: of the model.
        options: checked against it.
    """

    def __init__(self, address: Address, options: ClientOptions):
        self._address = address
        self._max_message_bytes = options.max_message_bytes
        settings = (
            ("grpc.max_send_message_length", options.max_message_bytes),
            ("grpc.max_receive_message_length", options.max_message_bytes),
            *_RECONNECT,
        )
        if address.is_encrypted:
            paths = (options.certificate, options.client_key, options.client_certificate)
            contents = [None if path is None else Path(path).read_bytes() for path in paths]
            tls = grpc.ssl_channel_credentials(*contents)
            self._channel = grpc.secure_channel(address.target, tls, settings)
        else:
            self._channel = grpc.insecure_channel(address.target, settings)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(self._channel)
        token = options.token
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)

    def predict(self, signature, input_name, values, outputs, timeout):
        request = predict_pb2.PredictRequest(model_spec=self._spec(), output_filter=outputs)
        request.model_spec.signature_name = signature
        if not isinstance(values, np.ndarray):
            values = np.array(values, dtype=object)  # NumPy's own strings would lose trailing zeros
        request.inputs[input_name].CopyFrom(make_tensor_proto(values))
        answer = self._call(self._prediction.Predict, request, timeout)
        return {name: self._array(name, tensor) for name, tensor in answer.outputs.items()}

    def status(self, timeout):
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())
        answer = self._call(self._model.GetModelStatus, request, timeout)
        states = get_model_status_pb2.ModelVersionStatus.State
        names = {number: name for name, number in states.items()}
        return {
            found.version: names.get(found.state, str(found.state)) for found in answer.model_version_status
        }

    def array_bytes(self, count, dtype):
        return count * np.dtype(dtype).itemsize

    def file_bytes(self, size):
        return size

    def answer_bytes(self, wanted, all_there):
        return 4 * wanted

    def close(self):
        self._channel.close()

    def _array(self, name: str, tensor) -> np.ndarray:
        """A tensor of an answer, which may announce far more than it holds."""
        shape = [dimension.size for dimension in tensor.tensor_shape.dim]
        try:
            if min(shape, default=0) < 0 or math.prod(shape) > self._max_message_bytes:
                raise ValueError(f"it has the shape {shape}")
            return make_ndarray(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise ServingError(
                f"{self._address.text}: the output {name!r} is not an array ({error})"
            ) from error

    def _spec(self) -> model_pb2.ModelSpec:
        spec = model_pb2.ModelSpec(name=self._address.name)
        if self._address.version is not None:
            spec.version.value = self._address.version
        elif self._address.label is not None:
            spec.version_label = self._address.label
        return spec

    def _call(self, method, request, timeout: float):
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._translated(error, timeout) from error

    def _translated(self, error: grpc.RpcError, timeout: float) -> ServingError:
        code, details, where = error.code(), one_line(error.details() or ""), self._address.text
        if code == grpc.StatusCode.UNAVAILABLE:
            if "handshake" in details.lower():
                return ServingError(f"{where}: no encrypted connection could be made: {details}")
            return TransientServingError(f"{where} is not available: {details}")
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            if "larger than max" in details:  # gRPC's own limit, here or there
                limit = f"`max_message_bytes` is {self._max_message_bytes} here"
                return ServingError(f"{where}: a message is too large ({limit}): {details}")
            return TransientServingError(f"{where} is overloaded: {details}")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServingError(f"{where} gave no answer within {timeout:.3g} s")
        reason = _REFUSALS.get(code, f"failed ({code.name})")
        return ServingError(f"{where}: the server of {self._address.name!r} {reason}: {details}")
