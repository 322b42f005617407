"""A feature model as a SavedModel that takes pixels or files."""

import errno
import os
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from rfd_tf.data.augmentation import normalize
from rfd_tf.data.preprocessing import eval_images
from rfd_tf.export.quiet import quiet
from rfd_tf.features.extractor import UINT8
from rfd_tf.features.keras_extractor import KerasExtractor
from rfd_tf.models.feature_model import ROTATION_PROBABILITIES

INFO_ASSET = "model.json"
JPEG, ABOUT = "jpeg", "about"  # signatures, besides `serving_default` and `rotation_probabilities`


def write_saved_model(extractor: KerasExtractor, folder: str | os.PathLike) -> None:
    """Writes a SavedModel with `assets/model.json` (`ModelInfo.to_json`) and these signatures, B being free:

        serving_default: `image`, [B, S, S, 3], float32 or uint8 as `info.input` says, to all outputs;
        jpeg: `encoded`, string [B], files prepared as in evaluation (`data.encoded_batch`), to all outputs;
        rotation_probabilities: `image` to that output alone, where the model has it;
        about: `ignored`, string [B], to `json`, string [B], each the text of the facts.

    Args:
        extractor: the model and its facts.
        folder: to be made, such as `DIR/saved_model/1`; it must not hold anything.

    Raises:
        FileExistsError: if it does.
    """
    save_functions(folder, INFO_ASSET, extractor.info.to_json(), extractor.model, _signatures(extractor))


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
            with quiet():
                tf.saved_model.save(module, str(folder), signatures)
        except tf.errors.OpError as error:  # of a full disk, mostly
            number = errno.ENOSPC if isinstance(error, tf.errors.ResourceExhaustedError) else errno.EIO
            raise OSError(number, os.strerror(number), str(folder)) from error


def _signatures(extractor: KerasExtractor) -> dict:
    info, model = extractor.info, extractor.model
    means = info.preprocessing.mean, info.preprocessing.std
    is_uint8 = info.input == UINT8
    image = tf.TensorSpec((None, *info.image_shape), tf.uint8 if is_uint8 else tf.float32, name="image")

    @tf.function(autograph=False, input_signature=[image])  # traced once for all signatures
    def infer(images):
        images = tf.ensure_shape(images, image.shape)  # servers check types only
        if is_uint8:
            images = normalize(images, *means)
        outputs = model(images, training=False)
        return {name: tf.cast(outputs[name], tf.float32) for name in info.outputs}

    @tf.function(autograph=False, input_signature=[image])
    def serving_default(image):
        return infer(image)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="encoded")])
    def jpeg(encoded):
        images = eval_images(encoded, info.preprocessing)
        return infer(_to_pixels(images, *means) if is_uint8 else images)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="ignored")])
    def about(ignored):
        return {"json": tf.fill(tf.shape(ignored), info.to_json())}

    @tf.function(autograph=False, input_signature=[image])
    def rotation_probabilities(image):
        return {ROTATION_PROBABILITIES: infer(image)[ROTATION_PROBABILITIES]}

    signatures = {"serving_default": serving_default, JPEG: jpeg, ABOUT: about}
    if ROTATION_PROBABILITIES in info.outputs:
        signatures[ROTATION_PROBABILITIES] = rotation_probabilities
    return signatures


def _to_pixels(images: tf.Tensor, mean, std) -> tf.Tensor:
    """As `ModelInfo.to_pixels`."""
    pixels = images * tf.constant(std, tf.float32) + tf.constant(mean, tf.float32)
    return tf.cast(tf.clip_by_value(tf.round(pixels * 255.0), 0, 255), tf.uint8)
