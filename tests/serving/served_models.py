"""The versions of one SavedModel, run as TensorFlow Serving runs them."""

from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import model_pb2


class Refusal(Exception):  # noqa: N818
    """An answer that is an error."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


class ServedModels:
    """All versions below a folder, `FOLDER/1`, `FOLDER/2`, ...

    Args:
        folder: of the versions.
        name: that they are served under.
        labels: label -> version.
    """

    def __init__(self, folder: Path, name: str, labels: dict[str, int] | None = None):
        paths = {int(path.name): path for path in folder.iterdir() if path.name.isdecimal()}
        if not paths:
            raise FileNotFoundError(f"{folder} holds no numbered version of a SavedModel")
        self.name, self.labels = name, labels or {}
        self._paths = dict(sorted(paths.items()))
        self._models = {version: tf.saved_model.load(str(path)) for version, path in self._paths.items()}

    @property
    def versions(self) -> list[int]:
        return list(self._paths)

    def version(self, spec: model_pb2.ModelSpec) -> int:
        """The version that a request means."""
        if spec.name != self.name:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")
        if spec.WhichOneof("version_choice") == "version_label":
            if spec.version_label not in self.labels:
                message = f"Unrecognized servable version label: {spec.version_label}"
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)
            return self.labels[spec.version_label]
        if not spec.HasField("version"):
            return self.versions[-1]
        if (number := spec.version.value) not in self._paths:
            message = f"Servable not found for request: Specific({spec.name}, {number})"
            raise Refusal(grpc.StatusCode.NOT_FOUND, message)
        return number

    def inputs(self, version: int, signature: str) -> dict[str, tf.TensorSpec]:
        return self._function(version, signature).structured_input_signature[1]

    def predict(
        self, version: int, signature: str, inputs: dict[str, tf.Tensor], output_filter: list[str]
    ) -> dict[str, np.ndarray]:
        """Outputs by name."""
        function = self._function(version, signature)
        specs = function.structured_input_signature[1]
        if inputs.keys() != specs.keys():
            message = f"Inputs expected to be in the set {sorted(specs)}, given: {sorted(inputs)}"
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)
        for name, spec in specs.items():
            if not spec.is_compatible_with(inputs[name]):
                message = f"{name}: expected {spec.dtype.name} {spec.shape}, got {inputs[name].shape}"
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)
        try:
            outputs = function(**inputs)
        except tf.errors.InvalidArgumentError as error:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, error.message) from error
        if unknown := [name for name in output_filter if name not in outputs]:
            message = f"output tensor alias not found in signature: {unknown[0]}"
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)
        return {name: outputs[name].numpy() for name in output_filter or outputs}

    def signature_defs(self, version: int) -> dict:
        content = saved_model_pb2.SavedModel()
        content.ParseFromString((self._paths[version] / "saved_model.pb").read_bytes())
        return dict(content.meta_graphs[0].signature_def)

    def _function(self, version: int, signature: str):
        signatures = self._models[version].signatures
        if (name := signature or "serving_default") not in signatures:
            message = f'Serving signature name: "{name}" not found in signature def'
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)
        return signatures[name]
