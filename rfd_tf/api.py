"""The commands as functions: what `import rfd_tf` offers besides the parts."""

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import data as data_
from rfd_tf.cli import models as cli_models
from rfd_tf.cli.command_line import packaged_configs
from rfd_tf.cli.fields import field_names, nearest_field
from rfd_tf.data.arrays import npz_names
from rfd_tf.evaluation import evaluate as evaluation
from rfd_tf.evaluation import finetune
from rfd_tf.evaluation.results import EvaluationResult, evaluation_folder
from rfd_tf.exporting.export_model import FORMATS, ExportOptions, export_model
from rfd_tf.exporting.parity import bundled_images, images_at
from rfd_tf.features import ExtractOptions, FeatureModel, KerasFeatureModel, keras_feature_model
from rfd_tf.features import extract as extract_shards
from rfd_tf.features.keras_feature_model import named_outputs
from rfd_tf.features.store import Skipped, describe_extraction
from rfd_tf.files import LocalStorage, absolute_location, atomic_file, atomic_path
from rfd_tf.models.inference import feature_map_names
from rfd_tf.models.keras_file import read_keras
from rfd_tf.runs import pretrain as pretraining
from rfd_tf.runs import rotation_probabilities
from rfd_tf.runs.workdir import BACKBONE_FILE, CACHE_FOLDER, CONFIG_FILE, read_run_config

# Fields that a backbone brings along where another training starts from it.
_OF_BACKBONES = {
    "backbone": ("features", "feature", "width", "dense_width"),
    "preprocessing": ("resize", "mean", "std"),
}
Images = Any  # a path, an array, (images, labels), or a tf.data.Dataset


def pretrain(
    data: Images,
    out: str | os.PathLike,
    backbone: str | keras.Model = "keras_cv.ResNet18",
    image_size: int = 224,
    epochs: int = 100,
    *,
    validation: Images | None = None,
    config: str = "image_folder",
    **fields,
) -> Path:
    """Train a backbone on images without labels; called again with the same arguments, go on with it.

    Args:
        data: what to train on: a folder of images, or of one folder per class; a list of images (`.txt`,
            `.csv`); an `.npz` file with `train_images`; uint8 arrays [N, H, W, 3], or (images, labels); or a
            finite `tf.data.Dataset` of such images [H, W, 3] of one size, or of (image, label). Arrays and
            datasets are copied into `out`. Labels are not learnt from.
        out: the run's folder.
        backbone: its name, as of `models.create_backbone`; or a functional Keras model of yours, from
            whose weights it starts. It is copied.
        image_size: side of the square that the network sees, in pixels.
        epochs: passes over the images. The config's schedule is stretched to them.
        validation: images to validate on, likewise; with labels it gives the kNN accuracy of every epoch.
        config: the packaged config whose fields are the defaults.
        **fields: other fields of the config: `batch_size=32`, `method={"temperature": 0.5}`, or by dotted
            names, `**{"method.temperature": 0.5}`.

    Returns:
        The run's folder, which `load`, `evaluate`, `extract` and `export` take.

    Raises:
        ValueError: on an unknown config or field, a value out of range, or images that are none.
        WorkdirError: if `out` holds a run of other arguments.

    Example:
        >>> run = rfd_tf.pretrain("photos", "run", backbone="resnet20", image_size=32, epochs=50)
    """
    out = Path(out)
    settings = _config("pretrain", config, epochs, fields)
    _set_network(settings, _name_of(backbone, out), image_size, _flat(fields))
    _use(settings.data, data, out, "training")
    if validation is not None:
        _use(settings.validation, validation, out, "validation")
    pretraining.pretrain(settings, out)
    return out


def train_rotation_probabilities(
    data: Images,
    out: str | os.PathLike,
    folds: int = 5,
    *,
    backbone: str | keras.Model = "keras_cv.ResNet18",
    image_size: int = 224,
    epochs: int = 100,
    config: str = "image_folder",
    **fields,
) -> np.ndarray:
    """How likely each view of each image looks upright, told by networks that never saw it.

    Args:
        data: the images, as of `pretrain`.
        out: the file to write, such as `prob.dat`; `rotation_probabilities={"path": "prob.dat"}` of
            `pretrain` reads it. The folds' networks are in the folder `OUT.folds`.
        folds: parts that are held out in turn, at least 2.
        backbone, image_size, epochs, config, **fields: as of `pretrain`.

    Returns:
        float32 [N, 4], in the order of the images.
    """
    workdir = Path(f"{os.fspath(out)}.folds")
    settings = _config("pretrain", config, epochs, fields)
    _set_network(settings, _name_of(backbone, workdir), image_size, _flat(fields))
    _use(settings.data, data, workdir, "training")
    found = rotation_probabilities.predict_out_of_sample(settings, workdir, folds)
    data_.save_rotation_probabilities(out, found.probabilities)
    return found.probabilities


def classify(
    data: Images,
    out: str | os.PathLike,
    validation: Images,
    *,
    backbone: str | keras.Model = "keras_cv.ResNet18",
    image_size: int = 224,
    epochs: int = 100,
    config: str = "classify_folder",
    **fields,
) -> EvaluationResult:
    """Train a network and a classifier on labelled images, by LDAM-DRW or another loss for long tails.

    Args:
        data: the images with labels, as of `pretrain`.
        out: the run's folder.
        validation: images with labels to measure on after each epoch.
        backbone, image_size, epochs, config, **fields: as of `pretrain`. The field `init` names a backbone
            to start from: the folder of a run of `pretrain`, whose backbone and preprocessing are taken; or a
            `.keras` file, or `zoo:NAME`, which are `backbone`'s.

    Returns:
        The figures after the last epoch (`.figures`), as in `out/evaluation.json`.
    """
    out = Path(out)
    init = os.fspath(fields.pop("init", ""))
    settings = _config("classify", config, epochs, fields)
    given = _flat(fields)
    if init and Path(init, CONFIG_FILE).is_file():
        run = read_run_config(Path(init))
        backbone, image_size = run.backbone.name, run.preprocessing.image_size
        init = os.path.join(init, BACKBONE_FILE)
        for section, names in _OF_BACKBONES.items():
            for name in names:
                if f"{section}.{name}" not in given:
                    settings[section][name] = run[section][name]
    _set_network(settings, _name_of(backbone, out), image_size, given)
    settings.init = init
    _use(settings.data, data, out, "training")
    _use(settings.validation, validation, out, "validation")
    return finetune.classify(settings, out)


def evaluate(
    model: str | os.PathLike,
    protocol: str,
    train: Images,
    test: Images,
    out: str | os.PathLike | None = None,
    *,
    config: str = "evaluate_folder",
    control: bool = False,
    **fields,
) -> EvaluationResult:
    """Measure what a model's features are worth.

    Args:
        model: anything that `load` opens from a location.
        protocol: one of `rfd_tf.evaluation.PROTOCOLS`: `"knn"`, `"logistic"`, `"linear"`, ...
        train: labelled images to learn from, as of `pretrain`.
        test: labelled images to measure on.
        out: the evaluation's folder; by default `MODEL/evaluations/PROTOCOL` of a run's folder.
        config: the packaged config whose fields are the defaults.
        control: measure the run's untrained network instead.
        **fields: other fields of the config, as of `pretrain`.

    Returns:
        The figures (`.figures`), as in `out/evaluation.json`.
    """
    location = os.fspath(model)
    if out is None:
        if not Path(location, CONFIG_FILE).is_file():
            raise ValueError(f"`out` is needed, since `model` is not the folder of a run. Received: {model}")
        out = evaluation_folder(Path(location), protocol, control)
    settings = _config("evaluate", config, fields.pop("epochs", None), fields)
    _use(settings.data, train, Path(out), "training")
    _use(settings.validation, test, Path(out), "validation")
    maps = feature_map_names(settings.features) or None

    def opened() -> FeatureModel:
        if control:
            return evaluation.open_control(Path(location), maps)
        return cli_models.open_model(location, maps)

    return evaluation.evaluate(protocol, settings, out, opened)


def load(
    model: str | os.PathLike | keras.Model,
    *,
    image_size: int = 0,
    resize: int = 0,
    mean: str | Sequence[float] = "",
    std: str | Sequence[float] = "",
    feature_maps: Sequence[str] | None = None,
    precision: str | None = None,
) -> FeatureModel:
    """Open a model for its features.

    Args:
        model: a run's folder, a `.keras` file, `zoo:NAME` or `zoo:NAME=FILE`, a SavedModel, an `.onnx` file,
            an OpenVINO `.xml` file, the address of TensorFlow Serving, or a functional Keras model.
        image_size, resize, mean, std: how images are prepared for a Keras model that does not tell: side in
            pixels; short side before the centre is cut out, 256/224 of `image_size` by default; and what
            RGB in [0, 1] is subtracted and divided by, each three numbers or one of `imagenet`, `unit`, `tf`
            and `pixels`.
        feature_maps: feature maps to give besides; None for all that the model has.
        precision: of the arithmetic, `"float32"`, `"bfloat16"` or `"int8"`; None for what it was exported
            for. What is not exported in bfloat16 is compared with float32 first.

    Returns:
        A feature model: `.features(images)` computes features, `.info` says what there is.

    Raises:
        ValueError: if it cannot be opened, or how images are prepared is neither told nor given.

    Example:
        >>> features = rfd_tf.load("run").features("photos")
    """
    given = {"image_size": image_size, "resize": resize, "mean": _text(mean), "std": _text(std)}
    given = {name: value for name, value in given.items() if value}
    if isinstance(model, keras.Model):
        network = named_outputs(model, model.name)
        preprocessing = cli_models.given_recipe(model.input_shape[1] or 0, given, model.name)
        opened = keras_feature_model(
            network, preprocessing, model.name, feature_maps=feature_maps, decoupled=False
        )
        return cli_models.in_precision(opened, precision)
    return cli_models.open_model(os.fspath(model), feature_maps, given=given, precision=precision)


def extract(
    model: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    outputs: Sequence[str] = ("features",),
    *,
    precision: str | None = None,
    batch_size: int = 64,
    on_error: str = "skip",
    **options,
) -> list[Skipped]:
    """Write the features of a collection of images, in shards; called again, go on with what is missing.

    Args:
        model: anything that `load` opens from a location.
        images: a folder, a list of images, or an `.npz` file, as of `data.open_images`.
        out: the folder to write. `features.load_features` reads it.
        outputs: outputs of the model, by name.
        precision: as of `load`. Of an export's folder the form is taken that is computed fastest here.
        batch_size: images that the model is given at once.
        on_error: `"skip"` or `"raise"` at a bad image.
        **options: of the shards: `format` (`"parquet"` or `"npz"`), `dtype` of the features (`"float32"` or
            `"float16"`), `shard_size` in images (4096), and `max_pixels`, beyond which images are refused
            before they are decoded.

    Returns:
        The images that were skipped, with the reasons.
    """
    location = os.fspath(model)
    storage = LocalStorage(out)
    with storage.locked():
        source = data_.open_images(images)
        maps = feature_map_names(outputs)
        with cli_models.open_model(location, maps, precision=precision, fastest=True) as opened:
            settings = describe_extraction(
                opened,
                absolute_location(location),
                source,
                absolute_location(os.fspath(images)),
                list(outputs),
                **options,
            )
            return extract_shards(opened, source, settings, storage, ExtractOptions(batch_size, on_error))


def export(
    model: str | os.PathLike | KerasFeatureModel,
    out: str | os.PathLike,
    formats: Sequence[str] = FORMATS,
    *,
    images: str | os.PathLike | None = None,
    num_images: int = 16,
    **options,
) -> list:
    """Write a model as SavedModel, ONNX and `.keras`; nothing stays where one of them computes otherwise.

    Args:
        model: a run's folder, a `.keras` file, `zoo:NAME`, or what `load` made of a Keras model.
        out: the export's folder.
        formats: of `"saved_model"`, `"onnx"`, `"keras"` and `"openvino"`.
        images: an image, or a folder of images, to compare the forms on; by default some of scikit-learn's.
        num_images: how many to compare on.
        **options: of `export.ExportOptions`: `precision="bfloat16"`, `input="uint8"`, `serving=True`, ...

    Returns:
        How far each form's outputs are from the model's, as in `out/parity.json`.
    """
    opened = model if isinstance(model, FeatureModel) else cli_models.open_model(os.fspath(model))
    if not isinstance(opened, KerasFeatureModel):
        raise ValueError(f"Only Keras models can be exported. Received: {opened.location}")
    examples = images_at(Path(images), num_images) if images else bundled_images(num_images)
    return export_model(opened, out, ExportOptions(formats=tuple(formats), **options), examples)


def _config(kind: str, name: str, epochs: int | None, fields: Mapping[str, Any]) -> ConfigDict:
    """A packaged config with other fields; its schedule is stretched to `epochs` where none is given."""
    known = packaged_configs(kind)
    if name not in known:
        raise ValueError(f"`config` must be one of {', '.join(known)}. Received: config={name!r}")
    config: ConfigDict = importlib.import_module(f"rfd_tf.configs.{kind}.{name}").get_config()
    given = _flat(fields)
    if epochs is not None:
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1. Received: epochs={epochs}")
        _stretch(config, epochs)
    known_fields = field_names(config)
    for field, value in given.items():
        if field not in known_fields:
            near = nearest_field(config, field)
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"the config {name!r} has no field {field!r}{hint}")
        try:
            config.update_from_flattened_dict({field: value})
        except TypeError as error:
            raise ValueError(f"{field}={value!r}: {error}") from None
    return config


def _set_network(config: ConfigDict, backbone: str, image_size: int, given: Mapping[str, Any]) -> None:
    config.backbone.name = backbone
    config.preprocessing.image_size = image_size
    if "preprocessing.resize" not in given:
        config.preprocessing.resize = cli_models.default_resize(image_size)
    if "backbone.features" not in given and "fc_block" in config.backbone.features:
        config.backbone.features = ()


def _name_of(backbone: str | keras.Model, out: Path) -> str:
    """What the config calls a backbone; a model is copied into the run's folder first."""
    if isinstance(backbone, str):
        return backbone
    file = out / CACHE_FOLDER / "given_backbone.keras"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            backbone.save(temporary)
    else:
        before, now = read_keras(file).get_weights(), backbone.get_weights()
        if len(before) != len(now) or not all(map(np.array_equal, before, now)):
            raise ValueError(f"{out} holds a run of another backbone ({file}): give a new folder")
    return os.fspath(file)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _stretch(config: ConfigDict, epochs: int) -> None:
    """Scale the milestones and what begins at an epoch; steps that fall on one epoch become one."""
    share, config.epochs = epochs / config.epochs, epochs
    ends = {math.ceil(until * share): rate for until, rate in config.optimizer.milestones}
    config.optimizer.milestones = tuple(ends.items())
    config.optimizer.warmup_epochs = min(math.ceil(config.optimizer.warmup_epochs * share), min(ends))
    for section, field in (
        ("rotation_probabilities", "start_epoch"),
        ("ldam", "start_epoch"),
        ("classifier", "drw_start_epoch"),
    ):
        if section in config:
            config[section][field] = round(config[section][field] * share)


def _use(fields: ConfigDict, images: Images, out: Path, name: str) -> None:
    """Set a config's fields to read `images`; arrays and datasets are copied into the run's folder first."""
    if isinstance(images, (str, os.PathLike)):
        path = Path(images)
        fields.source, fields.root, fields.split = data_.source_kind(path), os.fspath(path), "train"
        if fields.source == "image_list":
            fields.root, fields.split = os.fspath(path.parent), path.stem
        elif fields.source == "npz" and name != "training" and "test_images" in npz_names(path):
            fields.split = "test"
        return
    pixels, labels = _arrays(images)
    file = out / CACHE_FOLDER / f"{name}.npz"
    arrays = {"train_images": pixels} | ({} if labels is None else {"train_labels": labels})
    data_.ArraySource(pixels, labels)  # refuses what are no images, before anything is written
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as stream:
            np.savez(stream, allow_pickle=False, **arrays)
    elif not _same(file, arrays):
        raise ValueError(f"{out} holds a run on other images ({file}): give a new folder")
    fields.source, fields.root, fields.split = "npz", os.fspath(file), "train"


def _arrays(images) -> tuple[np.ndarray, np.ndarray | None]:
    """Images, and labels where there are any."""
    if isinstance(images, tf.data.Dataset):
        if images.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`data` is a dataset without end")
        rows = list(images.as_numpy_iterator())
        if not rows:
            raise ValueError("`data` is a dataset without images")
        pairs = isinstance(rows[0], tuple)
        if len({(row[0] if pairs else row).shape for row in rows}) > 1:
            raise ValueError("`data`: the images of a dataset must have one size")
        pixels = np.stack([row[0] if pairs else row for row in rows])
        return pixels, np.array([row[1] for row in rows]) if pairs else None
    if isinstance(images, tuple):
        pixels, labels = images
        return np.asarray(pixels), np.asarray(labels)
    return np.asarray(images), None


def _same(file: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    with np.load(file, allow_pickle=False) as found:
        return set(found.files) == set(arrays) and all(
            np.array_equal(found[name], array) for name, array in arrays.items()
        )


def _text(statistics: str | Sequence[float]) -> str:
    """Mean or deviation as the flags take it."""
    return statistics if isinstance(statistics, str) else ",".join(map(str, statistics))
