"""Feature models as Keras models: runs, `.keras` files, networks in memory."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import normalize
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.features.feature_model import (
    BFLOAT16,
    UINT8,
    FeatureModel,
    ModelInfo,
    check_feature_maps,
    check_preprocessing,
)
from rfd_tf.files import parse_json
from rfd_tf.keras_internals import all_layers, producer
from rfd_tf.models.inference import RESERVED, ROTATION_PROBABILITIES, compiled_inference, inference_model
from rfd_tf.models.keras_file import (
    check_archive,
    digest_weights,
    facts_inside,
    network_copy,
    read_keras,
    write_keras,
)
from rfd_tf.precision import to_float32

INFO_MEMBER = "rfd_tf_model.json"  # within a `.keras` file
_BFLOAT16_WEIGHTS = (keras.layers.Conv2D, keras.layers.Dense)
_BACKBONE, _HEADS, _CONFIG = "backbone.keras", "heads.keras", "config.json"


class KerasFeatureModel(FeatureModel):
    """Features by a Keras model in this process.

    Args:
        model: functional model from normalised images to a dict, as `inference_model` gives.
        info: its facts. Where `info.input` is "uint8", the images are rounded to pixels and normalised again,
            as forms of the model that take pixels see them.
        location: where it came from.
    """

    def __init__(self, model: keras.Model, info: ModelInfo, location: str):
        super().__init__(info, location)
        self.model = model
        self.runtime = f"Keras on {keras.backend.backend()}"
        self._function = functools.cache(self._traced)

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        if self.info.input == UINT8:
            images = self.info.normalize(images)
        outputs = self._function(names)(images)
        return {name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the facts, the layers and the weights: a file's parts may come from elsewhere (heads, zoo)."""
        digest = hashlib.sha256(self.info.to_json().encode())
        for layer in all_layers(self.model)[1:]:
            if not isinstance(layer, keras.Model):
                # Keras numbers the names by what else the process has made.
                settings = {key: value for key, value in layer.get_config().items() if key != "name"}
                digest.update(f"{type(layer).__name__} {settings}\n".encode())
        digest_weights(digest, self.model)
        return digest.hexdigest()

    @property
    def heads(self) -> keras.Model | None:
        """The model from features [B, D] to `rotation_probabilities` and `embedding`, where there is one."""
        found = [layer for layer in self.model.layers if isinstance(layer, keras.Model)]
        return next((layer for layer in found if ROTATION_PROBABILITIES in layer.output), None)

    def _traced(self, names: tuple[str, ...]):
        """Computes no more than `names` ask for."""
        part = keras.Model(self.model.inputs[0], {name: self.model.output[name] for name in names})
        return compiled_inference(part, (None, *self.info.image_shape))


def in_bfloat16(feature_model: KerasFeatureModel) -> KerasFeatureModel:
    """A copy that computes in bfloat16: convolutions and dense layers keep their weights in it, too.

    That halves what is read from memory for each batch, which is most of the time with few images. Batch
    norms keep theirs in float32, and all outputs are float32.
    """

    def policy(layer: keras.Operation) -> str | None:
        if not isinstance(layer, keras.layers.Layer):
            return None  # a cast to full precision stays one
        return BFLOAT16 if isinstance(layer, _BFLOAT16_WEIGHTS) else "mixed_bfloat16"

    model = network_copy(feature_model.model, list(feature_model.model.output), dtype=policy)
    info = dataclasses.replace(feature_model.info, precision=BFLOAT16)
    return KerasFeatureModel(model, info, feature_model.location)


def inference_function(feature_model: KerasFeatureModel) -> tuple[tf.TensorSpec, Callable]:
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


def keras_feature_model(
    backbone: keras.Model,
    preprocessing: Preprocessing,
    location: str,
    *,
    name: str | None = None,
    **outputs,
) -> KerasFeatureModel:
    """A backbone in memory as a feature model. It computes in float32: one of another policy is copied.

    Args:
        backbone: functional model from images to a dict of features.
        preprocessing: of the backbone's images.
        location: where it came from.
        name: of the model; by default the backbone's, `_` for what cannot be in a `ModelInfo`'s.
        **outputs: which it gives, as of `inference_model`: by default all the backbone's.
    """
    model = inference_model(backbone, **outputs)
    if any(layer.dtype_policy.compute_dtype != "float32" for layer in all_layers(model)):
        model = network_copy(model, list(model.output), dtype="float32")
    size = preprocessing.image_size
    if tuple(model.input_shape[1:]) not in ((size, size, 3), (None, None, 3)):
        raise ValueError(
            f"{location}: the network takes {model.input_shape[1:]}, the images have side {size}"
        )
    shapes = model.compute_output_shape((None, size, size, 3))
    name = name or "".join(c if c.isalnum() or c in "_-." else "_" for c in backbone.name)
    info = ModelInfo(name, preprocessing, {output: tuple(shapes[output][1:]) for output in model.output})
    return KerasFeatureModel(model, info, location)


def open_keras(
    path: Path, feature_maps: Sequence[str] | None = None, preprocessing: Preprocessing | None = None
) -> KerasFeatureModel:
    """Opens the folder of a finished `rfd train` run, its `backbone.keras`, or another `.keras` file.

    Args:
        path: the folder or file.
        feature_maps: feature maps to give besides; None for all that the network names.
        preprocessing: for a file that does not tell how its images are prepared: any functional model with
            one input. Its last output is the feature; an output without a name has that of its layer. Or a
            run whose config lacks it.

    Raises:
        FileNotFoundError: if there is no such file, or the run has not finished.
        ValueError: if the file cannot be read, does not tell how its images are prepared and nothing else
            does, tells it itself where `preprocessing` is given, or lacks a map.
    """
    if path.is_dir():
        if not (path / _BACKBONE).exists():
            raise FileNotFoundError(f"{path} holds no {_BACKBONE}: the run has not finished")
        path = path / _BACKBONE
    if not path.is_file():
        raise FileNotFoundError(f"No model at {path}")
    check_archive(path)
    facts = facts_inside(path, INFO_MEMBER)
    config = _run_config(path) if facts is None else {}
    if facts is not None or "preprocessing" in config:
        if preprocessing is not None:
            raise ValueError(f"{path} tells how its images are prepared: nothing else can be given for it")
    elif preprocessing is None:
        raise ValueError(f"{untold(path)}. Give the size of its images, their mean and their deviation")
    model = read_keras(path)
    if facts is not None:
        info = ModelInfo.from_json(facts, str(path))
        check_feature_maps(info, feature_maps, str(path))
        to_float32(model)
        return KerasFeatureModel(model, info, str(path))
    if not config and preprocessing is not None:
        network = named_outputs(model, str(path))
        return keras_feature_model(
            network, preprocessing, str(path), feature_maps=feature_maps, decoupled=False
        )
    heads = path.with_name(_HEADS)
    return keras_feature_model(
        model,
        preprocessing or _preprocessing(config, path.with_name(_CONFIG)),
        str(path),
        feature_name=config["backbone"]["feature"],
        feature_maps=feature_maps,
        heads=read_keras(heads) if heads.exists() else None,
    )


def untold(path: Path) -> str | None:
    """Why a `.keras` file does not tell how its images are prepared, for an error; None where it does.

    It does where it is an export of ours, or beside the config of the run that it came of.

    Raises:
        ValueError: if it is not a `.keras` file, or the config is damaged.
    """
    check_archive(path)
    if facts_inside(path, INFO_MEMBER) is not None or "preprocessing" in _run_config(path):
        return None
    config = path.with_name(_CONFIG)
    reason = f"it was not exported by this package, nor beside the {_CONFIG} of its run"
    if config.exists():
        reason = f"{config} has no field 'preprocessing'"
    return f"{path} does not tell how its images are prepared: {reason}"


def _run_config(path: Path) -> dict:
    """The config of the run that a file is beside; empty where there is none, or another program's.

    It has the field `backbone`, and `preprocessing` if it tells.

    Raises:
        ValueError: where there is one that is damaged; the message names the file.
    """
    file = path.with_name(_CONFIG)
    if not file.exists():
        return {}
    try:
        config = parse_json(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not the config of a run ({error})") from error
    if not isinstance(config, dict) or not {"preprocessing", "backbone"} & set(config):
        return {}
    for field in {"preprocessing", "backbone"} & set(config):
        if not isinstance(config[field], dict):
            raise ValueError(
                f"{file} is not the config of a run (its field {field} is {config[field]!r:.80})"
            )
    if not isinstance(config.get("backbone", {}).get("feature"), str):
        raise ValueError(f"{file} is not the config of a run: it has no field 'backbone.feature'")
    return config


def _preprocessing(config: dict, file: Path) -> Preprocessing:
    """That of a run's config; an unknown field, or one of another type, is a ValueError that names `file`."""
    try:
        check_preprocessing(config["preprocessing"])
        return Preprocessing.of_config(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not the config of a run (preprocessing: {error})") from error


def named_outputs(model: keras.Model, where: str) -> keras.Model:
    """The same network with a dict of outputs; those without names have the names of their layers.

    Raises:
        ValueError: if it is not functional, has several inputs, or one that is not of floats; the message
            begins with `where`.
    """
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "output", None)
    if isinstance(model, keras.Sequential):
        outputs = model.outputs  # its `output` is of its last call
    if not inputs or outputs is None:
        raise ValueError(f"{where}: only functional models can be opened. This is a {type(model).__name__}")
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = [tuple(one.shape) for one in inputs]
        raise ValueError(f"{where}: a model takes one batch of images [B, H, W, 3]. This one takes {shapes}")
    if "float" not in inputs[0].dtype:
        raise ValueError(f"{where}: a model takes images of floats, not {inputs[0].dtype}")
    if not isinstance(outputs, dict):
        tensors = keras.tree.flatten(outputs)
        outputs = {producer(tensor).name: tensor for tensor in tensors}
        if len(outputs) < len(tensors):
            raise ValueError(f"{where}: several of its outputs come of one layer; give it a dict of outputs")
    if taken := [name for name in outputs if name in RESERVED]:
        outputs = {f"output_{name}" if name in taken else name: value for name, value in outputs.items()}
    return keras.Model(inputs[0], outputs, name=model.name)


def save_keras(feature_model: KerasFeatureModel, path: Path) -> None:
    """Writes the model with its facts inside, as a `.keras` file that can be opened here or fine-tuned."""
    write_keras(feature_model.model, path, INFO_MEMBER, feature_model.info.to_json())
