"""What TensorFlow Serving needs beside a SavedModel: its config, its labels, and warm-up requests."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf import text_format

from rfd_tf.features.extractor import UINT8, ModelInfo
from rfd_tf.files import atomic_path, write_text
from rfd_tf.models.feature_model import ROTATION_PROBABILITIES
from rfd_tf.serving.client import MAX_BATCH, check_image_file

try:
    from tensorflow_serving.config import model_server_config_pb2
except ImportError as error:
    raise ImportError(
        f"Files for TensorFlow Serving need its protocols ({error}): pip install 'rfd_tf[serving]'"
    ) from error

STABLE, CANARY = "stable", "canary"
MODELS_CONFIG = Path("serving", "models.config")


def updated_model_config(
    out: Path, name: str, version: int, make_stable: bool = False, published: Path | None = None
) -> str:
    """The text of `models.config` with a version added.

    The first version is labelled `stable`, further ones `canary`, each in its predecessor's place. The
    versions that have a label are loaded, no others. Labels of versions that are no longer in `saved_model/`
    go; other models and other settings of an existing file stay.

    Args:
        out: the export's folder.
        name: of the model.
        version: that was exported.
        make_stable: whether it takes the label `stable` over, and `canary` ends.
        published: where the present file and the other versions are, if not in `out`.

    Raises:
        ValueError: if the present file is none, or is about models of other names.
    """
    published = published or out
    config = _present(published / MODELS_CONFIG, name)
    model = next(model for model in config.model_config_list.config if model.name == name)
    there = {path.name for folder in (out, published) for path in folder.glob("saved_model/*")}
    labels = {label: number for label, number in model.version_labels.items() if str(number) in there}
    if make_stable or STABLE not in labels:
        labels[STABLE] = version
        labels.pop(CANARY, None)
    elif version not in labels.values():
        labels[CANARY] = version
    model.version_labels.clear()
    for label, number in labels.items():
        model.version_labels[label] = number
    del model.model_version_policy.specific.versions[:]
    model.model_version_policy.specific.versions.extend(sorted(set(labels.values())))
    return text_format.MessageToString(config)


def _present(path: Path, name: str) -> model_server_config_pb2.ModelServerConfig:
    config = model_server_config_pb2.ModelServerConfig()
    if not path.exists():
        config.model_config_list.config.add(
            name=name, base_path=f"/models/{name}", model_platform="tensorflow"
        )
        return config
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no configuration of TensorFlow Serving ({error})") from error
    names = [model.name for model in config.model_config_list.config]
    if name not in names:
        raise ValueError(
            f"{path} is about {', '.join(map(repr, names)) or 'no model'}, not {name!r}: "
            "export into another folder"
        )
    return config


try:
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
except ImportError as error:
    raise ImportError(
        f"Files for TensorFlow Serving need its protocols ({error}): pip install 'rfd_tf[serving]'"
    ) from error

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_BYTES = 16 << 20  # of a signature's requests


def write_warmup_requests(
    saved_model: Path, info: ModelInfo, sample_images: Sequence[bytes], batch_sizes: Sequence[int]
) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog messages.

    `jpeg` and `serving_default` are asked with the sample images, once for each batch size, smallest first,
    as long as a signature's requests stay below 16 MiB together; the other signatures with one image.

    Args:
        saved_model: folder of the version.
        info: facts of the model.
        sample_images: encoded images, at least one; repeated where a batch needs more.
        batch_sizes: ascending.

    Raises:
        ValueError: on no sample images, or one that cannot be used.
    """
    if not sample_images:
        raise ValueError("`sample_images` is empty: warm-up requests need an image")
    for position, content in enumerate(sample_images):
        check_image_file(content, f"sample image {position}")
    write_requests(saved_model, _requests(info, sample_images, batch_sizes))


def write_requests(saved_model: Path, requests: Iterable[predict_pb2.PredictRequest]) -> None:
    """Writes the file of these requests to the SavedModel in the folder `saved_model`."""
    with atomic_path(saved_model / WARMUP_FILE) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def predict_request(model: str, signature: str, inputs: Mapping) -> predict_pb2.PredictRequest:
    """A request with these inputs by name, arrays."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


def _requests(info: ModelInfo, samples: Sequence[bytes], batch_sizes: Sequence[int]) -> Iterator:
    yield predict_request(info.name, "about", {"ignored": np.array([b""], dtype=object)})
    files = np.array(samples, dtype=object)
    images = np.stack([info.preprocessing.eval_image(tf.constant(content)) for content in samples])
    images = info.to_pixels(images) if info.input == UINT8 else images
    for signature, name, values, size in (
        ("jpeg", "encoded", files, max(map(len, samples))),
        ("serving_default", "image", images, images[0].nbytes),
    ):
        ends = itertools.accumulate(count * size for count in batch_sizes)
        for count, end in zip(batch_sizes, ends, strict=True):
            if count == batch_sizes[0] or end <= MAX_BYTES:
                yield predict_request(info.name, signature, {name: values[np.arange(count) % len(values)]})
    if ROTATION_PROBABILITIES in info.outputs:
        yield predict_request(info.name, ROTATION_PROBABILITIES, {"image": images[:1]})


TEMPLATES = Path(__file__).with_name("serving_templates")
IMAGE = "tensorflow/serving:2.21.0"  # of the version that this package's TensorFlow has
BATCH_SIZES = tuple(2**power for power in range(MAX_BATCH.bit_length()))  # 1, 2, 4, ... MAX_BATCH
BATCHING, MONITORING = "serving/batching.config", "serving/monitoring.config"
COMPOSE, README = "compose.yaml", "README.md"
_BATCHING = """\
      - --enable_batching=true
      - --batching_parameters_file=/serving/batching.config
"""


class _Template(Template):
    delimiter = "%"  # `$` is of the shell and of compose


def write_serving_files(
    out: Path,
    info: ModelInfo,
    version: int,
    sample_images: list[bytes],
    *,
    make_stable: bool = False,
    published: Path | None = None,
) -> None:
    """Makes an export a folder that `docker compose up` serves.

    Written are `serving/models.config`, `batching.config` and `monitoring.config`, `compose.yaml`,
    `README.md`, and the warm-up requests within the SavedModel. The label `stable` is given to the first
    version, and stays with it when others join, which get `canary`. The other configuration files and
    `compose.yaml` stay as they are where they are there.

    Args:
        out: the export's folder; holds `saved_model/VERSION/`.
        info: facts of the model.
        version: at least 1.
        sample_images: encoded images that the warm-up requests are made of, at least one.
        make_stable: moves `stable` to this version.
        published: the folder that `out` will be merged into, with the versions and the configuration that are
            in use; by default `out` is that folder.

    Raises:
        FileNotFoundError: if the SavedModel is not there.
        ValueError: on no sample images or ones that cannot be used, and if `out` serves a model of another
            name.
    """
    saved_model = saved_model_version(out, version)
    config = updated_model_config(out, info.name, version, make_stable, published)
    write_warmup_requests(saved_model, info, sample_images, BATCH_SIZES)
    values = {
        "name": info.name,
        "batching": _BATCHING,
        "max_batch": MAX_BATCH,
        "batch_sizes": "\n".join(f"allowed_batch_sizes: {size}" for size in BATCH_SIZES),
        "outputs": ", ".join(f"`{name}` {list(shape)}" for name, shape in info.outputs.items()),
    }
    write_from_templates(
        out, {name: Path(name).name for name in (BATCHING, MONITORING, COMPOSE, README)}, values, published
    )
    # Last: a running server reads it anew and loads what it names.
    write_text(out / MODELS_CONFIG, config)


def saved_model_version(out: Path, version: int) -> Path:
    """The folder of a version of an export; ValueError on no such number, FileNotFoundError if it is none."""
    if version < 1:
        raise ValueError(f"`version` must be at least 1. Received: version={version}")
    saved_model = out / "saved_model" / str(version)
    if not (saved_model / "saved_model.pb").is_file():
        raise FileNotFoundError(f"{saved_model} holds no SavedModel")
    return saved_model


def write_from_templates(out: Path, files: dict[str, str], values: dict, published: Path | None) -> None:
    """Writes files, by name and template, but those that are in `published` (or `out`): they may be tuned."""
    for name, template in files.items():
        if name != README and ((published or out) / name).exists():
            logging.info("%s stays as it is", name)
            continue
        text = _Template((TEMPLATES / template).read_text(encoding="utf-8"))
        write_text(out / name, text.substitute(image=IMAGE, label=STABLE, **values))
