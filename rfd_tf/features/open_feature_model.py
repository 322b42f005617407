"""A feature model by its location; the forms that `rfd export` writes: SavedModel, ONNX, on a server."""

import functools
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.features.feature_model import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    INFO_KEY,
    INT8,
    PRECISIONS,
    FeatureModel,
    ModelInfo,
    check_feature_maps,
    processor_threads,
)
from rfd_tf.features.keras_feature_model import in_bfloat16, open_keras
from rfd_tf.features.openvino_feature_model import has_openvino, open_openvino
from rfd_tf.files import parse_json
from rfd_tf.serving import ServingClient

SERVING_SCHEMES = ("grpc://", "grpcs://", "http://", "https://")


def open_feature_model(
    location: str | os.PathLike,
    feature_maps: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    *,
    precision: str | None = None,
    fastest: bool = False,
    **serving_options,
) -> FeatureModel:
    """Opens a feature model.

    Args:
        location: one of
            the folder of a finished `rfd train` run, or a `.keras` file;
            a SavedModel: its folder, or the folder that holds its numbered versions (the newest counts);
            an `.onnx` file, or an OpenVINO `.xml` file;
            the folder of an `rfd export`: its SavedModel, else its `.keras`, its `.onnx`, its `.xml` file;
            TensorFlow Serving: `grpc://HOST:PORT/NAME`, `http://HOST:PORT/NAME`, with an `s` for TLS.
        preprocessing: how images are prepared for a `.keras` file that does not tell, such as any functional
            model of yours.
        feature_maps: feature maps that are wanted besides the features; None for all there are. Exports give
            those that they were exported with.
        precision: of the arithmetic: `"float32"`, or `"bfloat16"`, which Keras models, `.onnx` and `.xml`
            files can be opened in; None for what it was exported for.
        fastest: open an `.onnx` file with OpenVINO if that is installed, and of an export's folder the form
            that the installed packages compute fastest. On a GPU it makes no difference.
        **serving_options: of `rfd_tf.serving.ServingClient`, for an address.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: if what is there is no feature model, lacks a feature map, or is of another precision.
        ImportError: without the package that computes it.
    """
    location = os.fspath(location)
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}. Received: {precision!r}")
    if location.startswith(SERVING_SCHEMES):
        return _checked(open_serving(location, feature_maps, **serving_options), precision)
    if serving_options:
        raise ValueError(
            f"{', '.join(serving_options)} are for a server's address only. Received: {location}"
        )
    path = _form(Path(location), precision, fastest)
    if not path.exists():
        raise FileNotFoundError(f"No model at {path}")
    by_openvino = precision == BFLOAT16 or (fastest and precision != INT8 and _openvino_is_best())
    if path.suffix == ".xml" or (path.suffix == ".onnx" and by_openvino):
        return open_openvino(path, feature_maps, precision)
    if path.suffix == ".onnx":
        return _checked(open_onnx(path, feature_maps), precision)
    if not _is_keras(path):
        return _checked(open_saved_model(path, feature_maps), precision)
    opened = open_keras(path, feature_maps, preprocessing)
    return in_bfloat16(opened) if precision == BFLOAT16 else _checked(opened, precision)


def is_keras(location: str, precision: str | None = None, fastest: bool = False) -> bool:
    """Whether `open_feature_model` opens a Keras model: a run's folder, a `.keras` file, an export."""
    return not location.startswith(SERVING_SCHEMES) and _is_keras(_form(Path(location), precision, fastest))


def _is_keras(path: Path) -> bool:
    return path.suffix not in (".onnx", ".xml") and (not path.is_dir() or (path / "config.json").exists())


def _checked(opened: FeatureModel, precision: str | None) -> FeatureModel:
    if precision not in (None, opened.info.precision):
        opened.close()
        raise ValueError(
            f"{opened.location} computes in {opened.info.precision} with {opened.runtime}. "
            f"Received: precision={precision!r}"
        )
    return opened


# In an export's folder. Of its report, `export_model.py` writes the rest.
OPENVINO_FILE, OPENVINO_INT8_FILE = "openvino/model.xml", "openvino/model.int8.xml"
ONNX_FILES = {FLOAT32: "model.onnx", FLOAT16: "model.float16.onnx", INT8: "model.int8.onnx"}
REPORT = "parity.json"


def _form(path: Path, precision: str | None, fastest: bool) -> Path:
    """The file or folder to open; of an export's folder one of its forms."""
    return (_fastest_form(path, precision or FLOAT32) if fastest else None) or _within_export(path)


def _on_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def _openvino_is_best() -> bool:
    return has_openvino() and not _on_gpu()


def _within_export(path: Path) -> Path:
    """The file to open in an export's folder without SavedModel; any other path as it is."""
    if (path / "config.json").exists() or (path / "saved_model").exists():
        return path
    names = ("model.keras", ONNX_FILES[FLOAT32], OPENVINO_FILE)
    return next((file for name in names if (file := path / name).is_file()), path)


def _fastest_form(path: Path, precision: str) -> Path | None:
    """What of an export's newest version is computed fastest; None if that is not known.

    Each form was compared with the model when it was written; older versions' files may lie beside them.
    """
    try:
        versions = parse_json((path / REPORT).read_text(encoding="utf-8"))["versions"]
        newest = versions[max(versions, key=int)]
        forms, given = set(newest["forms"]), newest.get("precision", FLOAT32)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if precision in (FLOAT32, BFLOAT16) and _openvino_is_best():
        if "openvino" in forms:
            return path / OPENVINO_FILE
        if f"onnx {FLOAT32}" in forms:
            return path / ONNX_FILES[FLOAT32]
    if f"openvino {precision}" in forms and _openvino_is_best():
        return path / OPENVINO_INT8_FILE
    if f"onnx {precision}" in forms and importlib.util.find_spec("onnxruntime") and not _on_gpu():
        return path / ONNX_FILES[precision]
    if "saved_model" in forms and given == precision:
        return path
    return path / "model.keras" if "keras" in forms else None


_ASSERTION = re.compile(r"assertion failed: \[(.*)\]")
_GRAPH = "saved_model.pb"
_FACTS = ("assets/model.json", "assets.extra/model.json")


class SavedModelFeatureModel(FeatureModel):
    """Features by the signature `serving_default` of what `tf.saved_model.load` gave, in this process."""

    runtime = "TensorFlow"

    def __init__(self, model, info: ModelInfo, location: str):
        super().__init__(info, location)
        self._model = model  # signatures do not keep it alive
        self._function = functools.cache(self._traced)

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        outputs = self._function(names)(tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items()}

    def from_files(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        """All outputs for encoded images, prepared within the model as in evaluation (signature `jpeg`).

        Raises:
            ValueError: on an empty batch, and on images that are refused or cannot be decoded: all are
                listed by position, from 0.
        """
        encoded = tf.constant(list(files), tf.string, shape=[len(files)])
        try:
            outputs = self._model.signatures["jpeg"](encoded=encoded)
        except tf.errors.InvalidArgumentError as error:
            reason = _ASSERTION.search(error.message)
            raise ValueError(f"{self.location}: {reason[1] if reason else error.message}") from None
        return {name: outputs[name].numpy() for name in self.info.outputs}

    def _traced(self, names: tuple[str, ...]):
        """Computes no more than `names` ask for."""
        signature = self._model.signatures["serving_default"]
        dtype = signature.structured_input_signature[1]["image"].dtype
        spec = tf.TensorSpec((None, *self.info.image_shape), dtype)

        @tf.function(input_signature=[spec], autograph=False)
        def infer(images):
            outputs = signature(image=images)
            return {name: outputs[name] for name in names}

        return infer


def open_saved_model(
    path: str | os.PathLike, feature_maps: Sequence[str] | None = None
) -> SavedModelFeatureModel:
    """Opens a SavedModel that `rfd export` wrote.

    Args:
        path: its folder, the folder of its numbered versions (the newest counts), or the export's folder.
        feature_maps: feature maps that it must have; None for those it has.

    Raises:
        FileNotFoundError: if there is no SavedModel.
        ValueError: if it cannot be read, has no facts of ours, or lacks a map.
    """
    if (folder := find_saved_model(path)) is None:
        raise FileNotFoundError(f"{path} holds no SavedModel (a {_GRAPH}, or numbered folders with one)")
    facts = next((file for name in _FACTS if (file := folder / name).is_file()), None)
    if facts is None:
        raise ValueError(f"{folder} has no {_FACTS[0]}: it was not exported by this package")
    info = ModelInfo.from_json(facts.read_text(encoding="utf-8"), str(facts))
    check_feature_maps(info, feature_maps, str(folder))
    try:
        model = tf.saved_model.load(str(folder))
        inputs = model.signatures["serving_default"].structured_input_signature[1]
    except Exception as error:  # TensorFlow raises whatever its parts raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{folder}: TensorFlow cannot read it ({reason})") from error
    if "image" not in inputs:
        raise ValueError(f"{folder}: its signature serving_default has no input `image`")
    return SavedModelFeatureModel(model, info, str(folder))


def find_saved_model(path: str | os.PathLike) -> Path | None:
    """The SavedModel that `path` means: itself, its newest version, or that of its folder `saved_model`."""
    path = Path(path)
    if (path / _GRAPH).is_file():
        return path
    versions = [child for child in path.glob("[0-9]*") if child.name.isdigit() and (child / _GRAPH).is_file()]
    if versions:
        return max(versions, key=lambda child: int(child.name))
    below = path / "saved_model"
    return find_saved_model(below) if below.is_dir() else None


_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # by preference


class OnnxFeatureModel(FeatureModel):
    """Features by an `onnxruntime.InferenceSession`, in this process."""

    runtime = "ONNX Runtime"

    def __init__(self, session, info: ModelInfo, location: str):
        super().__init__(info, location)
        self._session = session

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        values = self._session.run(list(names), {"image": images})
        return dict(zip(names, values, strict=True))


def open_onnx(
    path: str | os.PathLike, feature_maps: Sequence[str] | None = None, threads: int | None = None
) -> OnnxFeatureModel:
    """Opens an ONNX file that `rfd export` wrote; on a GPU where onnxruntime-gpu is installed.

    Args:
        path: the file.
        feature_maps: feature maps that it must have; None for those it has.
        threads: processor threads for one operation; by default `$RFD_TF_ONNX_THREADS`, else as many as
            there are cores.

    Raises:
        ImportError: without onnxruntime.
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, has no facts of ours, or lacks a map; on `threads` below 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No model at {path}")
    session = _session(path, processor_threads(threads))
    facts = session.get_modelmeta().custom_metadata_map.get(INFO_KEY)
    if facts is None:
        raise ValueError(f"{path} has no metadata {INFO_KEY!r}: it was not exported by this package")
    info = ModelInfo.from_json(facts, str(path))
    check_feature_maps(info, feature_maps, str(path))
    missing = set(info.outputs) - {output.name for output in session.get_outputs()}
    if missing or [node.name for node in session.get_inputs()] != ["image"]:
        raise ValueError(f"{path}: its inputs and outputs are not those that its metadata tell of")
    return OnnxFeatureModel(session, info, str(path))


def _session(path: Path, threads: int):
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{path}: needs onnxruntime (pip install 'rfd_tf[onnx]')") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    available = onnxruntime.get_available_providers()
    providers = [provider for provider in _PROVIDERS if provider in available]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # a class of its own for each status
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: ONNX Runtime cannot read it ({reason})") from error


# Options that commands, which know the address only, take from the environment.
ENVIRONMENT = {
    "token": "RFD_TF_SERVING_TOKEN",
    "certificate": "RFD_TF_SERVING_CERTIFICATE",
    "client_certificate": "RFD_TF_SERVING_CLIENT_CERTIFICATE",
    "client_key": "RFD_TF_SERVING_CLIENT_KEY",
}


class ServingFeatureModel(FeatureModel):
    """Features by a served model.

    Args:
        client: of the server; closed with this feature model.

    Raises:
        ServingError: if the server cannot be reached or has no such model.
        ValueError: if it is not an exported model of this package.
    """

    runtime = "TensorFlow Serving"

    def __init__(self, client: ServingClient):
        where = client.address.text
        super().__init__(ModelInfo.from_json(json.dumps(client.about()), where), where)
        self.client = client

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        return self.client.features(images, names)

    def close(self) -> None:
        self.client.close()


def open_serving(
    address: str, feature_maps: Sequence[str] | None = None, **serving_options
) -> ServingFeatureModel:
    """Opens a served model.

    Args:
        address: `grpc://HOST:PORT/NAME` and so on, see `ServingClient`.
        feature_maps: feature maps that are wanted; None for all that the model was exported with.
        **serving_options: of `ServingClient`. Token and certificates that are not given come from the
            variables `RFD_TF_SERVING_TOKEN`, `..._CERTIFICATE`, `..._CLIENT_CERTIFICATE`, `..._CLIENT_KEY`.

    Raises:
        ServingError, ValueError: as `ServingFeatureModel`; ValueError if the model lacks a feature map.
    """
    for option, variable in ENVIRONMENT.items():
        if value := os.environ.get(variable):
            serving_options.setdefault(option, value)
    client = ServingClient(address, **serving_options)
    try:
        feature_model = ServingFeatureModel(client)
        check_feature_maps(feature_model.info, feature_maps, address)
        return feature_model
    except BaseException:
        client.close()
        raise
