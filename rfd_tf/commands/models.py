"""`--model` of the commands: a location, `zoo:NAME`, or `zoo:NAME=FILE`."""

import dataclasses
from collections.abc import Mapping, Sequence
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
# Mean and deviation of RGB in [0, 1], by what Keras users call them.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # 0 to 1
    "tf": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # -1 to 1
}
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
    """`extractors.open_extractor`, and an entry of the zoo besides, its weights released or in a file.

    Args:
        location: as of `open_extractor`, or zoo:NAME, or zoo:NAME=FILE.
        feature_maps, **serving_options: as of `open_extractor`.
        exif_orientation: how pictures are prepared instead of as the model says; None for as it says.
        given: `image_size`, `mean`, `std` and `resize` of a `.keras` file that does not tell how its images
            are prepared; what is missing is taken from the zoo's report beside it, and logged.
        heads_from: PyTorch files of an entry's heads; those that its own file holds are taken anyhow.

    Raises:
        ValueError: if the model cannot be had, or an option is given that does not go with it.
    """
    from rfd_tf.extractors import open_extractor

    if location.startswith(_ZOO):
        extractor = _open_zoo(location, feature_maps, heads_from)
    elif heads_from:
        raise ValueError(f"--heads_from goes with --model=zoo:NAME. Received: --model={location}")
    else:
        preprocessing = _plain_preprocessing(location, given or {})
        extractor = open_extractor(location, feature_maps, preprocessing, **serving_options)
    if exif_orientation is not None:
        prepared = dataclasses.replace(extractor.info.preprocessing, exif_orientation=exif_orientation)
        extractor.info = dataclasses.replace(extractor.info, preprocessing=prepared)
    return extractor


def define_preprocessing(values: flags.FlagValues) -> None:
    """Defines the flags that say how images are prepared for a `.keras` file that does not tell."""
    flags.DEFINE_integer(
        "image_size", 0, "of a .keras file that does not tell: side of its images", 0, flag_values=values
    )
    presets = f"one of {', '.join(STATISTICS)}, or three numbers, of RGB in [0, 1]"
    flags.DEFINE_string("mean", "", f"likewise: what is subtracted, {presets}", flag_values=values)
    flags.DEFINE_string("std", "", f"likewise: what it is divided by, {presets}", flag_values=values)
    flags.DEFINE_integer(
        "resize",
        0,
        "likewise: short side before the centre is cut out; image_size for no margin",
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


def _plain_preprocessing(location: str, given: Mapping[str, object]):
    """How images are prepared for a `.keras` file that does not tell; None for any other model."""
    from absl import logging

    from rfd_tf.data import Preprocessing

    path = Path(location)
    if path.suffix != ".keras" or not path.is_file() or _tells(path):
        if given:
            raise ValueError(
                f"--{next(iter(given))} is for a .keras file that does not tell. Received: {location}"
            )
        return None
    from zoo.report import recorded_entry

    entry = recorded_entry(path)
    known = _preprocessing(entry) if entry is not None else None
    mean, std = (_statistics(given.get(name), name, index) for index, name in enumerate(("mean", "std")))
    missing = [name for name, value in (("mean", mean), ("std", std)) if value is None]
    if known is None and missing:
        raise ValueError(
            f"{location} does not tell how its images are prepared. Give --{missing[0]}: one of "
            f"{', '.join(STATISTICS)}, or three numbers, of RGB in [0, 1]"
        )
    size = given.get("image_size") or (known.image_size if known else _input_size(path))
    if not size:
        raise ValueError(f"{location} takes images of any size: give --image_size")
    resize = given.get("resize") or (known.resize if known else round(size * 256 / 224))
    found = Preprocessing(size, "random_crop", resize, mean=mean or known.mean, std=std or known.std)
    source = "the flags" if known is None else f"the report beside it (zoo:{entry.name}) and the flags"
    logging.info(
        "%s: images are prepared as of %s: short side to %d pixels, centre of %d, mean %s, std %s",
        location,
        source,
        found.resize,
        found.image_size,
        found.mean,
        found.std,
    )
    return found


def _tells(path: Path) -> bool:
    from rfd_tf.extractors.keras_extractor import tells_preprocessing

    return tells_preprocessing(path)


def _statistics(text, name: str, index: int) -> tuple[float, float, float] | None:
    """Three numbers of a flag: a preset's means (index 0) or deviations (1), or themselves."""
    if not text:
        return None
    if text in STATISTICS:
        return STATISTICS[text][index]
    try:
        values = tuple(float(part) for part in str(text).strip("()").split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise ValueError(
            f"`{name}` must be one of {', '.join(STATISTICS)}, or three numbers. Received: {name}={text!r}"
        )
    return values


def _input_size(path: Path) -> int:
    """The side of a model's images; 0 where it takes any."""
    from rfd_tf.models.keras_file import read_keras

    shape = getattr(read_keras(path), "input_shape", None) or ()
    if len(shape) == 4 and shape[1] != shape[2]:
        raise ValueError(f"{path}: takes images that are not square: {shape[1:]}")
    return (shape[1] if len(shape) == 4 else 0) or 0


def _open_zoo(location: str, feature_maps: Sequence[str] | None, heads_from: Sequence[str]):
    import zoo
    from rfd_tf.extractors import keras_extractor
    from rfd_tf.models import select_features

    name, _, file = location.removeprefix(_ZOO).partition("=")
    entry = zoo.info(name)
    decoupled = (entry.architecture or "").startswith("alexnet")  # RFD's own networks
    if heads_from and not decoupled:
        raise ValueError(f"--heads_from is for RFD's networks, which zoo:{name} is not")
    network = zoo.load(
        name, from_file=file or None, heads="auto" if decoupled else False, heads_from=heads_from
    )
    backbone = select_features(network, [f for f in network.output if f not in _HEAD_OUTPUTS])
    return keras_extractor(
        backbone,
        _preprocessing(entry),
        location,
        name=name,
        feature_maps=feature_maps,
        decoupled=decoupled,
        heads=_heads(network, backbone),
    )


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
