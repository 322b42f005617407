"""TensorFlow Serving's gRPC services, by the classes of tensorflow-serving-api."""

from collections.abc import Callable

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.served_models import Refusal, ServedModels


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; `admit(token)` may raise Refusal before each."""

    def __init__(self, models: ServedModels, admit: Callable[[str | None], None]):
        self._models, self._admit = models, admit

    def Predict(self, request, context):  # noqa: N802
        with _Refusals(context):
            self._admit(_token(context))
            version = self._models.version(request.model_spec)
            signature = request.model_spec.signature_name
            inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
            found = self._models.predict(version, signature, inputs, list(request.output_filter))
            answer = predict_pb2.PredictResponse()
            _describe(answer.model_spec, request, version)
            answer.model_spec.signature_name = signature or "serving_default"
            for name, value in found.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return answer

    def GetModelMetadata(self, request, context):  # noqa: N802
        with _Refusals(context):
            self._admit(_token(context))
            version = self._models.version(request.model_spec)
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, definition in self._models.signature_defs(version).items():
                signatures.signature_def[name].CopyFrom(definition)
            answer = get_model_metadata_pb2.GetModelMetadataResponse()
            _describe(answer.model_spec, request, version)
            answer.metadata["signature_def"].Pack(signatures)
            return answer


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus, which looks at versions but not at labels, as the real one."""

    def __init__(self, models: ServedModels):
        self._models = models

    def GetModelStatus(self, request, context):  # noqa: N802
        with _Refusals(context):
            spec = request.model_spec
            asked = spec.name == self._models.name
            versions = self._models.versions if asked else []
            if spec.HasField("version"):
                versions = [version for version in versions if version == spec.version.value]
            if not versions:
                message = f"Could not find any versions of model {spec.name}"
                raise Refusal(grpc.StatusCode.NOT_FOUND, message)
            available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
            answer = get_model_status_pb2.GetModelStatusResponse()
            for version in versions:
                answer.model_version_status.add(version=version, state=available)
            return answer


class _Refusals:
    """Turns a Refusal into the call's status."""

    def __init__(self, context: grpc.ServicerContext):
        self._context = context

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Refusal):
            self._context.abort(error.code, str(error))


def _token(context) -> str | None:
    return dict(context.invocation_metadata()).get("authorization")


def _describe(spec, request, version: int) -> None:
    spec.name = request.model_spec.name
    spec.version.value = version
