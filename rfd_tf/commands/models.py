"""`--model` of the commands: a location, `zoo:NAME`, or `zoo:NAME=FILE`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import flags

KERAS_MODEL_HELP = (
    "a run's folder, a .keras file, zoo:NAME, zoo:NAME=FILE with the weights in a file of yours"
)
MODEL_HELP = (
    f"{KERAS_MODEL_HELP}, a SavedModel, an .onnx file, or the address of TensorFlow Serving "
    "(grpc://HOST:PORT/NAME, http://HOST:PORT/NAME)"
)

_ZOO = "zoo:"
_HEAD_OUTPUTS = ("rotation_logits", "embedding", "logits")


def open_model(
    location: str,
    feature_maps: Sequence[str] | None = None,
    exif_orientation: bool | None = None,
    **serving_options,
):
    """`extractors.open_extractor`, and an entry of the zoo besides, its weights released or in a file.

    Args:
        location, feature_maps, **serving_options: as of `open_extractor`.
        exif_orientation: how pictures are prepared instead of as the model says; None for as it says.
    """
    from rfd_tf.extractors import open_extractor

    if location.startswith(_ZOO):
        extractor = _open_zoo(location, feature_maps)
    else:
        extractor = open_extractor(location, feature_maps, **serving_options)
    if exif_orientation is not None:
        prepared = dataclasses.replace(extractor.info.preprocessing, exif_orientation=exif_orientation)
        extractor.info = dataclasses.replace(extractor.info, preprocessing=prepared)
    return extractor


def define_exif_orientation(values: flags.FlagValues) -> None:
    """Defines the flag of the commands that read pictures for a model."""
    flags.DEFINE_bool(
        "exif_orientation",
        None,
        "turn pictures as their EXIF says, or (--noexif_orientation) take them as they are stored; by "
        "default as the model was trained",
        flag_values=values,
    )


def open_control(location: str, feature_maps: Sequence[str] | None = None):
    """The untrained control of the run at `location`."""
    from rfd_tf.evaluation import control

    return control.open_control(Path(location), feature_maps)


def initialize(init: str, backbone) -> None:
    """Sets a backbone's weights from what a config's `init` names: a .keras file or zoo:NAME."""
    import zoo

    zoo.resolve_init(init, backbone)


def _open_zoo(location: str, feature_maps: Sequence[str] | None):
    import zoo
    from rfd_tf.extractors import keras_extractor
    from rfd_tf.models import select_features

    name, _, file = location.removeprefix(_ZOO).partition("=")
    entry = zoo.info(name)
    network = zoo.load(name, from_file=file or None, heads=entry.architecture == "alexnet")
    backbone = select_features(network, [f for f in network.output if f not in _HEAD_OUTPUTS])
    return keras_extractor(
        backbone,
        _preprocessing(entry),
        location,
        name=name,
        feature_maps=feature_maps,
        decoupled=entry.architecture.startswith("alexnet"),  # RFD's own networks
        heads=_heads(network, backbone),
    )


def _heads(network, backbone):
    """The heads of a checkpoint that has them, from the last feature on."""
    import keras

    if "rotation_logits" not in network.output:
        return None
    outputs = {
        "rotation_probabilities": keras.ops.softmax(network.output["rotation_logits"]),
        "embedding": network.output["embedding"],
    }
    return keras.Model(list(backbone.output.values())[-1], outputs, name="heads")


def _preprocessing(entry):
    """A zoo entry's way with pixels, as the pipeline's."""
    from rfd_tf.data import Preprocessing

    given = entry.preprocessing
    size = given.input_size[0]
    low, high = given.value_range
    if given.channel_order != "RGB" or given.input_size != (size, size) or low != 0:
        raise ValueError(f"zoo:{entry.name}: its input ({given}) cannot be prepared by the pipelines here")
    recipe = {"train": "random_crop", "resize": 256} if size == 224 else {"train": "pad_crop"}
    mean, std = (tuple(value / high for value in values) for values in (given.mean, given.std))
    return Preprocessing(size, mean=mean, std=std, **recipe)
