"""`--model` of the commands: a location, `zoo:NAME`, or `zoo:NAME=FILE`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

KERAS_MODEL_HELP = (
    "a run's folder, a .keras file, zoo:NAME, zoo:NAME=FILE with the weights in a file of yours"
)
MODEL_HELP = (
    f"{KERAS_MODEL_HELP}, a SavedModel, an .onnx file, or the address of TensorFlow Serving "
    "(grpc://HOST:PORT/NAME, http://HOST:PORT/NAME)"
)

_ZOO = "zoo:"
# Mean and deviation of RGB in [0, 1], by what Keras users call them.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # 0 to 1
    "tf": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # -1 to 1
    "pixels": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),  # 0 to 255
}
_CHOICES = f"one of {', '.join(STATISTICS)}, or three numbers, of RGB in [0, 1]"
_HEAD_OUTPUTS = ("rotation_logits", "embedding", "logits")
_HEADS_FROM_HELP = (
    "with zoo:NAME: a PyTorch file of the rotation classifier or of the projection, which the released "
    "backbone's file does not hold; repeated for several"
)


def define_heads_from(flag_values: flags.FlagValues) -> None:
    """The flag `--heads_from`."""
    flags.DEFINE_multi_string("heads_from", [], _HEADS_FROM_HELP, flag_values=flag_values)


def open_model(
    location: str,
    feature_maps: Sequence[str] | None = None,
    *,
    exif_orientation: bool | None = None,
    given: Mapping[str, object] | None = None,
    heads_from: Sequence[str] = (),
    **serving_options,
):
    """`features.open_feature_model`, and an entry of the zoo besides, its weights released or in a file.

    Args:
        location: as of `open_feature_model`, or zoo:NAME, or zoo:NAME=FILE.
        feature_maps, **serving_options: as of `open_feature_model`.
        exif_orientation: how images are prepared instead of as the model says; None for as it says.
        given: `image_size`, `mean`, `std` and `resize` of a `.keras` file that does not tell how its images
            are prepared; what is missing is taken from the zoo's report beside it, and logged.
        heads_from: PyTorch files of an entry's heads; those that its own file holds are taken anyhow.

    Raises:
        ValueError: if the model cannot be had, or an option is given that does not go with it.
    """
    from rfd_tf.features import open_feature_model

    if location.startswith(_ZOO):
        feature_model = _open_zoo(location, feature_maps, heads_from)
    elif heads_from:
        raise ValueError(f"--heads_from goes with --model=zoo:NAME. Received: --model={location}")
    elif preprocessing := _plain_preprocessing(location, given or {}):
        feature_model = _open_plain(Path(location), feature_maps, preprocessing)
    else:
        feature_model = open_feature_model(location, feature_maps, **serving_options)
    if exif_orientation is not None:
        prepared = dataclasses.replace(feature_model.info.preprocessing, exif_orientation=exif_orientation)
        feature_model.info = dataclasses.replace(feature_model.info, preprocessing=prepared)
    return feature_model


def define_preprocessing(values: flags.FlagValues) -> None:
    """Defines the flags that say how images are prepared for a `.keras` file that does not tell."""
    flags.DEFINE_integer(
        "image_size", 0, "of a .keras file that does not tell: side of its images", 0, flag_values=values
    )
    flags.DEFINE_string("mean", "", f"likewise: what is subtracted, {_CHOICES}", flag_values=values)
    flags.DEFINE_string("std", "", f"likewise: what it is divided by, {_CHOICES}", flag_values=values)
    flags.DEFINE_integer(
        "resize",
        0,
        "likewise: short side before the centre is cut out; by default 256/224 of image_size",
        0,
        flag_values=values,
    )


def given_preprocessing(values: flags.FlagValues):
    """What `define_preprocessing`'s flags say, for `open_model`; only what was given."""
    given = {name: values[name].value for name in ("image_size", "mean", "std", "resize")}
    return {name: value for name, value in given.items() if value}


def model_options(values: flags.FlagValues) -> dict:
    """Options of `open_model` from the flags that are defined here."""
    return {
        "exif_orientation": values.exif_orientation,
        "given": given_preprocessing(values),
        "heads_from": values.heads_from,
    }


def define_svd(values: flags.FlagValues) -> None:
    """Defines the flag of the commands that use a trained detector."""
    flags.DEFINE_list(
        "svd",
        None,
        "of a detector: ranks to truncate fc6 and fc7 to, such as 1024,256, for speed; see docs/voc.md",
        flag_values=values,
    )


def open_any_detector(values: flags.FlagValues):
    """The detector that --model names, as --svd and --exif_orientation have it."""
    from rfd_tf.detection.detector import open_detector
    from rfd_tf.detection.fast_rcnn import truncated_svd

    detector, changes = open_detector(values.model), {}
    if values.exif_orientation is not None:
        changes["exif_orientation"] = values.exif_orientation
    if values.svd is not None:
        if not all(rank.strip().isdigit() for rank in values.svd):
            raise ValueError(f"--svd must be two ranks, such as 1024,256. Received: {','.join(values.svd)}")
        changes["model"] = truncated_svd(detector.model, [int(rank) for rank in values.svd])
    return dataclasses.replace(detector, **changes)


def define_exif_orientation(values: flags.FlagValues) -> None:
    """Defines the flag of the commands that read images for a model."""
    flags.DEFINE_bool(
        "exif_orientation",
        None,
        "turn images as their EXIF says, or (--noexif_orientation) take them as they are stored; by "
        "default as the model was trained",
        flag_values=values,
    )


def _plain_preprocessing(location: str, given: Mapping[str, Any]):
    """How images are prepared for a `.keras` file that does not tell; None for any other model."""
    from absl import logging

    from rfd_tf.features.keras_feature_model import untold

    path = Path(location)
    path = path / "backbone.keras" if path.is_dir() else path
    reason = untold(path) if path.suffix == ".keras" and path.is_file() else None
    if reason is None:
        if given:
            raise ValueError(
                f"--{next(iter(given))} is for a .keras file that does not tell. Received: {location}"
            )
        return None
    from zoo.verification import recorded_entry

    entry = recorded_entry(path)
    mean, std = _statistics(given)
    if entry is None and None in (mean, std):
        raise ValueError(f"{reason}. Give --{'std' if mean else 'mean'}: {_CHOICES}")
    known = entry.preprocessing.input_size[0] if entry and entry.preprocessing else 0
    size = given.get("image_size") or known or _input_size(path)
    if not size:
        raise ValueError(f"{location} takes images of any size: give --image_size")
    found = _recipe(entry, size, given.get("resize"), mean, std)
    told_by = ["the flags"] if given else []
    if entry:
        told_by.append(f"the report beside it (zoo:{entry.name})")
    square = f"resized to {size} x {size} pixels"
    crop = f"short side to {found.resize} pixels, centre of {size}"
    logging.info(
        "%s: images are prepared as of %s: %s, mean %s, std %s",
        location,
        " and ".join(told_by),
        crop if found.train == "random_crop" else square,
        found.mean,
        found.std,
    )
    return found


def given_recipe(size: int, given: Mapping[str, Any], where: str):
    """How images are prepared for a model in memory, by what was `given` (as of `open_model`)."""
    mean, std = _statistics(given)
    if mean is None or std is None:
        raise ValueError(
            f"{where} does not tell how its images are prepared: give `mean` and `std`, {_CHOICES}"
        )
    if not (size := given.get("image_size") or size):
        raise ValueError(f"{where} takes images of any size: give `image_size`")
    return _recipe(None, size, given.get("resize"), mean, std)


def _recipe(entry, size: int, resize: int | None, mean, std):
    """The preprocessing of an entry of the zoo, or of any other model (None), with what was given instead."""
    from rfd_tf.data import Preprocessing

    known = entry and _preprocessing(entry)
    statistics = {"mean": mean or known.mean, "std": std or known.std}
    if known and not resize and (known.train != "random_crop" or size == known.image_size):
        return dataclasses.replace(known, image_size=size, **statistics)
    return Preprocessing(size, "random_crop", resize or default_resize(size), **statistics)


def default_resize(size: int) -> int:
    """The short side of which a square of `size` is cut out, in the proportion of ImageNet's 256 to 224."""
    return round(size * 256 / 224)


def _open_plain(path: Path, feature_maps: Sequence[str] | None, preprocessing):
    """A `.keras` file that does not tell; one that the zoo converted as the entry of the zoo is opened."""
    from rfd_tf.features import open_feature_model
    from rfd_tf.models.keras_file import read_keras
    from zoo.verification import recorded_entry

    entry = recorded_entry(path)
    if entry is None:
        return open_feature_model(path, feature_maps, preprocessing)
    network = read_keras(path)
    if not isinstance(network.output, dict):
        raise ValueError(f"{path} is not a network of zoo:{entry.name}, which the report beside it speaks of")
    return _entry_feature_model(entry, network, preprocessing, str(path), feature_maps)


def _statistics(given: Mapping[str, Any]) -> list[tuple[float, ...] | None]:
    """The mean and the deviation that were given, by a preset's name or as numbers; None where not."""
    found: list[tuple[float, ...] | None] = []
    for index, name in enumerate(("mean", "std")):
        text = given.get(name)
        if not text:
            found.append(None)
        elif text in STATISTICS:
            found.append(STATISTICS[text][index])
        else:
            try:
                values = tuple(float(part) for part in str(text).strip("()").split(","))
            except ValueError:
                values = ()
            if len(values) != 3:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(STATISTICS)}, or three numbers. "
                    f"Received: {name}={text!r}"
                )
            found.append(values)
    return found


def _input_size(path: Path) -> int:
    """The side of a model's images; 0 where it takes any."""
    from rfd_tf.models.keras_file import read_keras

    inputs = getattr(read_keras(path), "inputs", None) or [None]
    shape: tuple = getattr(inputs[0], "shape", ())
    if len(shape) == 4 and shape[1] != shape[2]:
        raise ValueError(f"{path}: takes images that are not square: {shape[1:]}")
    return (shape[1] if len(shape) == 4 else 0) or 0


def _open_zoo(location: str, feature_maps: Sequence[str] | None, heads_from: Sequence[str]):
    import zoo

    name, _, file = location.removeprefix(_ZOO).partition("=")
    entry = zoo.info(name)
    if entry.bundled and not file:
        from rfd_tf.features import open_keras

        return open_keras(entry.bundled, feature_maps)
    decoupled = _is_decoupled(entry)
    if heads_from and not decoupled:
        raise ValueError(f"--heads_from is for RFD's networks, which zoo:{name} is not")
    network = zoo.load(
        name, from_file=file or None, heads="auto" if decoupled else False, heads_from=heads_from
    )
    return _entry_feature_model(entry, network, _preprocessing(entry), location, feature_maps)


def _entry_feature_model(entry, network, preprocessing, location: str, feature_maps: Sequence[str] | None):
    """A feature model of an entry's network, with the heads that it has."""
    from rfd_tf.features import keras_feature_model
    from rfd_tf.models import select_features

    backbone = select_features(network, [f for f in network.output if f not in _HEAD_OUTPUTS])
    return keras_feature_model(
        backbone,
        preprocessing,
        location,
        name=entry.name,
        feature_maps=feature_maps,
        decoupled=_is_decoupled(entry),
        heads=_heads(network, backbone),
    )


def _is_decoupled(entry) -> bool:
    """Whether it is one of RFD's own networks."""
    return (entry.architecture or "").startswith("alexnet")


def _heads(network, backbone):
    """Those heads that the network has, from the last feature on; None without any."""
    import keras

    outputs = {}
    if "rotation_logits" in network.output:
        outputs["rotation_probabilities"] = keras.ops.softmax(network.output["rotation_logits"])
    if "embedding" in network.output:
        outputs["embedding"] = network.output["embedding"]
    if not outputs:
        return None
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
