"""A feature model as a SavedModel that takes pixels or files, and as an ONNX file."""

import contextlib
import errno
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import normalize
from rfd_tf.data.preprocessing import eval_images
from rfd_tf.features.feature_model import UINT8
from rfd_tf.features.keras_feature_model import KerasFeatureModel
from rfd_tf.features.open_feature_model import INFO_KEY
from rfd_tf.models.inference import ROTATION_PROBABILITIES

INFO_ASSET = "model.json"
JPEG, ABOUT = "jpeg", "about"  # signatures, besides `serving_default` and `rotation_probabilities`
OPSET = 17  # the newest that tf2onnx writes without warnings; ONNX Runtime 1.13 and later read it
ONNX_FILES = {"float32": "model.onnx", "float16": "model.float16.onnx", "int8": "model.int8.onnx"}
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
    image, infer = _inference(feature_model)  # traced once for all signatures
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
            with _quiet():
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
    image, infer = _inference(feature_model)
    with _quiet():
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
    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        changed = convert_float_to_float16(changed, keep_io_types=True)
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with _quiet():
            # Unsigned weights: products of unsigned with signed bytes overflow on processors before VNNI.
            quantize_dynamic(changed, str(path), weight_type=QuantType.QUInt8)
        changed = onnx.load_model(str(path))
        onnx.helper.set_model_props(changed, {entry.key: entry.value for entry in model.metadata_props})
    onnx.save_model(changed, str(path))


def _inference(feature_model: KerasFeatureModel) -> tuple[tf.TensorSpec, Callable]:
    """The spec of the input `image`, and a `tf.function` from it to all outputs in float32."""
    info, model = feature_model.info, feature_model.model
    is_uint8 = info.input == UINT8
    spec = tf.TensorSpec((None, *info.image_shape), tf.uint8 if is_uint8 else tf.float32, name="image")

    @tf.function(autograph=False, input_signature=[spec])
    def infer(image):
        image = tf.ensure_shape(image, spec.shape)  # servers check types only
        if is_uint8:
            image = normalize(image, info.preprocessing.mean, info.preprocessing.std)
        outputs = model(image, training=False)
        return {name: tf.cast(outputs[name], tf.float32) for name in info.outputs}

    return spec, infer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Only errors are logged: converters report each of their steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
