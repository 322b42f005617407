"""A feature model as an ONNX file."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import normalize
from rfd_tf.export.quiet import quiet
from rfd_tf.features.extractor import UINT8
from rfd_tf.features.keras_extractor import KerasExtractor
from rfd_tf.features.onnx_extractor import INFO_KEY

OPSET = 17  # the newest that tf2onnx writes without warnings; ONNX Runtime 1.13 and later read it
FILES = {"float32": "model.onnx", "float16": "model.float16.onnx", "int8": "model.int8.onnx"}
MAX_WEIGHT_BYTES = 2**31 - 2**20  # protobuf's limit of one message, less the graph
_PACKAGES = "onnx, onnxruntime and tf2onnx (pip install 'rfd_tf[onnx]')"


def check_onnx_packages() -> None:
    """Raises ImportError, naming the extra to install, where ONNX files cannot be written and tried."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Exporting to ONNX needs {_PACKAGES}: {error}") from error


def onnx_model(extractor: KerasExtractor):
    """An `onnx.ModelProto` in float32: input `image`, outputs named as those of the model, any batch size.

    The facts (`ModelInfo.to_json`) are in its metadata_props, under `rfd_tf_model`.

    Raises:
        ImportError: without the packages of the extra `onnx`.
        ValueError: on a model above protobuf's limit of 2 GB.
    """
    check_onnx_packages()
    import onnx

    size = sum(4 * int(np.prod(variable.shape)) for variable in extractor.model.variables)
    if size > MAX_WEIGHT_BYTES:
        raise ValueError(
            f"{extractor.location}: its weights take {size / 1e9:.1f} GB, an ONNX file holds 2 GB at most"
        )
    model = _converted(extractor)
    order = {name: position for position, name in enumerate(extractor.info.outputs)}
    outputs = sorted(model.graph.output, key=lambda output: order[output.name])
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.name = extractor.info.name
    onnx.helper.set_model_props(model, {INFO_KEY: extractor.info.to_json()})
    return model


def write_onnx(model, path: str | os.PathLike, precision: str = "float32") -> None:
    """Writes what `onnx_model` gave, in another precision if asked; inputs and outputs stay as they are.

    Args:
        model: the `onnx.ModelProto`; it stays as it is.
        path: the file to write.
        precision: `"float32"`; `"float16"`: weights and arithmetic; `"int8"`: weights, and the inputs of
            convolutions and dense layers by their range in each batch (dynamic quantisation).

    Raises:
        ValueError: on another precision.
    """
    import onnx

    if precision not in FILES:
        raise ValueError(f"`precision` must be one of {', '.join(FILES)}. Received: {precision!r}")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    if precision == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        changed = convert_float_to_float16(changed, keep_io_types=True)
    if precision == "int8":
        return _quantize(changed, Path(path))
    onnx.save_model(changed, str(path))


def _converted(extractor: KerasExtractor):
    import tf2onnx

    info, model = extractor.info, extractor.model
    is_uint8 = info.input == UINT8
    spec = tf.TensorSpec((None, *info.image_shape), tf.uint8 if is_uint8 else tf.float32, name="image")

    @tf.function(input_signature=[spec], autograph=False)
    def infer(image):
        if is_uint8:
            image = normalize(image, info.preprocessing.mean, info.preprocessing.std)
        outputs = model(image, training=False)
        return {name: tf.cast(outputs[name], tf.float32) for name in info.outputs}

    with quiet():
        converted, _ = tf2onnx.convert.from_function(infer, input_signature=[spec], opset=OPSET)
    return converted


def _quantize(model, path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    facts = {entry.key: entry.value for entry in model.metadata_props}
    with quiet():
        # Unsigned weights: products of unsigned with signed bytes overflow on processors before VNNI.
        quantize_dynamic(model, str(path), weight_type=QuantType.QUInt8)
    quantized = onnx.load_model(str(path))
    onnx.helper.set_model_props(quantized, facts)
    onnx.save_model(quantized, str(path))
