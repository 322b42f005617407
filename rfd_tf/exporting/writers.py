"""A feature model as a SavedModel that takes pixels or files, and as an ONNX file."""

import contextlib
import dataclasses
import errno
import os
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from rfd_tf.data.preprocessing import eval_images
from rfd_tf.features.feature_model import INFO_KEY, INT8, UINT8, ModelInfo
from rfd_tf.features.keras_feature_model import KerasFeatureModel, inference_function
from rfd_tf.features.open_feature_model import ONNX_FILES
from rfd_tf.features.openvino_feature_model import check_openvino, openvino_model
from rfd_tf.models.inference import ROTATION_PROBABILITIES
from rfd_tf.terminal import only_errors_logged

INFO_ASSET = "model.json"
JPEG, ABOUT = "jpeg", "about"  # signatures, besides `serving_default` and `rotation_probabilities`
OPSET = 17  # the newest that tf2onnx writes without warnings; ONNX Runtime 1.13 and later read it
MAX_WEIGHT_BYTES = 2**31 - 2**20  # protobuf's limit of one message, less the graph


def write_saved_model(feature_model: KerasFeatureModel, folder: str | os.PathLike) -> None:
    """Writes a SavedModel with `assets/model.json` (`ModelInfo.to_json`) and these signatures, B being free:

        serving_default: `image`, [B, S, S, 3], float32 or uint8 as `info.input` says, to all outputs;
        jpeg: `encoded`, string [B], files prepared as in evaluation (`data.preprocessing`), to all outputs;
        rotation_probabilities: `image` to that output alone, where the model has it;
        about: `ignored`, string [B], to `json`, string [B], each the text of the facts.

    Args:
        feature_model: the model and its facts.
        folder: to be made, such as `DIR/saved_model/1`; it must not hold anything.

    Raises:
        FileExistsError: if it does.
    """
    info = feature_model.info
    preprocessing = info.preprocessing
    image, infer = inference_function(feature_model)  # traced once for all signatures
    texts = [tf.TensorSpec([None], tf.string, name=name) for name in ("encoded", "ignored")]

    @tf.function(autograph=False, input_signature=[image])
    def serving_default(image):
        return infer(image)

    @tf.function(autograph=False, input_signature=texts[:1])
    def jpeg(encoded):
        images = eval_images(encoded, preprocessing)
        if info.input == UINT8:  # as `ModelInfo.to_pixels`
            pixels = images * tf.constant(preprocessing.std, tf.float32)
            pixels = (pixels + tf.constant(preprocessing.mean, tf.float32)) * 255.0
            images = tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8)
        return infer(images)

    @tf.function(autograph=False, input_signature=texts[1:])
    def about(ignored):
        return {"json": tf.fill(tf.shape(ignored), info.to_json())}

    @tf.function(autograph=False, input_signature=[image])
    def rotation_probabilities(image):
        return {ROTATION_PROBABILITIES: infer(image)[ROTATION_PROBABILITIES]}

    signatures = {"serving_default": serving_default, JPEG: jpeg, ABOUT: about}
    if ROTATION_PROBABILITIES in info.outputs:
        signatures[ROTATION_PROBABILITIES] = rotation_probabilities
    save_functions(folder, INFO_ASSET, info.to_json(), feature_model.model, signatures)


def save_functions(
    folder: str | os.PathLike, asset: str, facts: str, model: keras.Model, signatures: dict
) -> None:
    """Writes a SavedModel of functions that use `model`, with the text `facts` as `assets/ASSET`.

    Raises:
        FileExistsError: if the folder holds anything.
        OSError: if it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / asset
        file.write_text(facts, encoding="utf-8")
        module = tf.Module()
        module.facts = tf.saved_model.Asset(str(file))
        module.weights = [variable.value for variable in model.variables]
        try:
            with only_errors_logged():
                tf.saved_model.save(module, str(folder), signatures)
        except tf.errors.OpError as error:  # of a full disk, mostly
            number = errno.ENOSPC if isinstance(error, tf.errors.ResourceExhaustedError) else errno.EIO
            raise OSError(number, os.strerror(number), str(folder)) from error


def check_onnx_packages() -> None:
    """Raises ImportError, naming the extra to install, where ONNX files cannot be written and tried."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        packages = "onnx, onnxruntime and tf2onnx (pip install 'rfd_tf[onnx]')"
        raise ImportError(f"Exporting to ONNX needs {packages}: {error}") from error


def onnx_model(feature_model: KerasFeatureModel):
    """An `onnx.ModelProto` in float32: input `image`, outputs named as those of the model, any batch size.

    The facts (`ModelInfo.to_json`) are in its metadata_props, under `rfd_tf_model`.

    Raises:
        ImportError: without the packages of the extra `onnx`.
        ValueError: on a model above protobuf's limit of 2 GB.
    """
    check_onnx_packages()
    import onnx
    import tf2onnx

    size = sum(4 * int(np.prod(variable.shape)) for variable in feature_model.model.variables)
    if size > MAX_WEIGHT_BYTES:
        raise ValueError(
            f"{feature_model.location}: its weights take {size / 1e9:.1f} GB, an ONNX file holds 2 GB at most"
        )
    image, infer = inference_function(feature_model)
    with only_errors_logged():
        model, _ = tf2onnx.convert.from_function(infer, input_signature=[image], opset=OPSET)
    order = {name: position for position, name in enumerate(feature_model.info.outputs)}
    outputs = sorted(model.graph.output, key=lambda output: order[output.name])
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.name = feature_model.info.name
    onnx.helper.set_model_props(model, {INFO_KEY: feature_model.info.to_json()})
    return model


def write_onnx(model, path: str | os.PathLike, precision: str = "float32") -> None:
    """Writes what `onnx_model` returned, in another precision if asked; inputs and outputs keep theirs.

    Args:
        model: the `onnx.ModelProto`; it is not changed.
        path: the file to write.
        precision: `"float32"`; `"float16"`: weights and arithmetic; `"int8"`: weights, and the inputs of
            convolutions and dense layers by their range in each batch (dynamic quantisation).

    Raises:
        ValueError: on another precision.
    """
    import onnx

    if precision not in ONNX_FILES:
        raise ValueError(f"`precision` must be one of {', '.join(ONNX_FILES)}. Received: {precision!r}")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    info = ModelInfo.from_json(model.metadata_props[0].value, str(path))
    facts = {INFO_KEY: dataclasses.replace(info, precision=precision).to_json()}
    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        changed = convert_float_to_float16(changed, keep_io_types=True)
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with only_errors_logged():
            # Unsigned weights: products of unsigned with signed bytes overflow on processors before VNNI.
            quantize_dynamic(changed, str(path), weight_type=QuantType.QUInt8)
        changed = onnx.load_model(str(path))
    onnx.helper.set_model_props(changed, facts)
    onnx.save_model(changed, str(path))


def check_openvino_packages(precision: str) -> None:
    """Raises ImportError, naming the extra to install, where OpenVINO files cannot be written."""
    check_openvino()
    if precision == INT8:
        _nncf()


def write_openvino(
    feature_model: KerasFeatureModel,
    path: str | os.PathLike,
    precision: str = "float32",
    calibration: np.ndarray | None = None,
) -> None:
    """Writes an OpenVINO model: `path`, an `.xml` file, and beside it the weights as `.bin`.

    Args:
        feature_model: the model and its facts, which go inside.
        path: the file; its folder is made if missing.
        precision: `"float32"` or `"bfloat16"`, which whoever opens it computes in by default, of the same
            weights in float32; or `"int8"`: weights and maps, by their ranges on images (static).
        calibration: these images for int8, prepared, float32 [N, S, S, 3].

    Raises:
        ImportError: without OpenVINO, or for int8 without NNCF.
    """
    check_openvino_packages(precision)
    import openvino

    info = dataclasses.replace(feature_model.info, precision=precision)
    model = openvino_model(KerasFeatureModel(feature_model.model, info, feature_model.location))
    if precision == INT8:
        assert calibration is not None
        images = info.to_pixels(calibration) if info.input == UINT8 else calibration
        nncf = _nncf()
        with only_errors_logged(), contextlib.redirect_stdout(None):  # bars of progress
            dataset = nncf.Dataset([image[None] for image in images])
            quantized = nncf.quantize(model, dataset, subset_size=len(images))
        quantized.set_rt_info(info.to_json(), [INFO_KEY])
        model = quantized
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _nncf():
    os.environ.setdefault("NNCF_CI", "1")  # or it reports its use to its makers
    try:
        import nncf
    except ImportError as error:
        raise ImportError(
            f"Quantising for OpenVINO needs NNCF (pip install 'rfd_tf[openvino]'): {error}"
        ) from error
    return nncf
