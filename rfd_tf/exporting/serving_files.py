"""What TensorFlow Serving needs beside a SavedModel: its config, its labels, and warm-up requests."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf import text_format

from rfd_tf.features.feature_model import UINT8, ModelInfo
from rfd_tf.files import atomic_path, write_text
from rfd_tf.models.inference import ROTATION_PROBABILITIES
from rfd_tf.serving.client import check_image_file
from rfd_tf.serving.transport import MAX_BATCH

try:
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    from tensorflow_serving.config import model_server_config_pb2
except ImportError as error:
    raise ImportError(
        f"Files for TensorFlow Serving need its protocols ({error}): pip install 'rfd_tf[serving]'"
    ) from error

STABLE, CANARY = "stable", "canary"
MODELS_CONFIG = Path("serving", "models.config")
BATCHING, MONITORING = "serving/batching.config", "serving/monitoring.config"
COMPOSE, README = "compose.yaml", "README.md"
WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_BYTES = 16 << 20  # of a signature's warm-up requests
IMAGE = "tensorflow/serving:2.21.0"  # of the version that this package's TensorFlow has
TEMPLATES = Path(__file__).with_name("serving_templates")
_TEMPLATES = {name: Path(name).name for name in (BATCHING, MONITORING, COMPOSE, README)}
_BATCH_SIZES = tuple(2**power for power in range(MAX_BATCH.bit_length()))  # 1, 2, 4, ... MAX_BATCH
_BATCHING = """\
      - --enable_batching=true
      - --batching_parameters_file=/serving/batching.config
"""


class _Template(Template):
    delimiter = "%"  # `$` is used by shells and by compose


def write_serving_files(
    out: Path,
    info: ModelInfo,
    version: int,
    sample_images: Sequence[bytes],
    *,
    make_stable: bool = False,
    published: Path | None = None,
) -> None:
    """Adds what `docker compose up` needs to serve an export.

    Written are `serving/models.config`, `batching.config` and `monitoring.config`, `compose.yaml`,
    `README.md`, and the warm-up requests within the SavedModel: `jpeg` and `serving_default` are asked with
    the sample images, once for each batch size, smallest first, as long as a signature's requests stay below
    16 MiB together; the other signatures with one image.

    The first version gets the label `stable` and keeps it; further ones get `canary`. Existing configuration
    files other than `models.config`, and `compose.yaml`, are not touched.

    Args:
        out: the export's folder; holds `saved_model/VERSION/`.
        info: facts of the model.
        version: at least 1.
        sample_images: encoded images for the warm-up requests, at least one; repeated where a batch needs
            more.
        make_stable: moves `stable` to this version.
        published: the folder that `out` will be merged into, with the versions and the configuration that are
            in use; by default `out` is that folder.

    Raises:
        FileNotFoundError: if the SavedModel is not there.
        ValueError: on no sample images or ones that cannot be used, and if `out` serves a model of another
            name.
    """
    served = ServedVersion(out, info.name, version, make_stable, published)
    if not sample_images:
        raise ValueError("`sample_images` is empty: warm-up requests need an image")
    for position, content in enumerate(sample_images):
        check_image_file(content, f"sample image {position}")
    values = {
        "batching": _BATCHING,
        "max_batch": MAX_BATCH,
        "batch_sizes": "\n".join(f"allowed_batch_sizes: {size}" for size in _BATCH_SIZES),
        "outputs": ", ".join(f"`{name}` {list(shape)}" for name, shape in info.outputs.items()),
    }
    served.write(_requests(info, sample_images), _TEMPLATES, values)


def _requests(info: ModelInfo, samples: Sequence[bytes]) -> Iterator:
    yield predict_request(info.name, "about", {"ignored": np.array([b""], dtype=object)})
    files = np.array(samples, dtype=object)
    images = np.stack([info.preprocessing.eval_image(tf.constant(content)) for content in samples])
    images = info.to_pixels(images) if info.input == UINT8 else images
    for signature, name, values, size in (
        ("jpeg", "encoded", files, max(map(len, samples))),
        ("serving_default", "image", images, images[0].nbytes),
    ):
        ends = itertools.accumulate(count * size for count in _BATCH_SIZES)
        for count, end in zip(_BATCH_SIZES, ends, strict=True):
            if count == _BATCH_SIZES[0] or end <= MAX_BYTES:
                yield predict_request(info.name, signature, {name: values[np.arange(count) % len(values)]})
    if ROTATION_PROBABILITIES in info.outputs:
        yield predict_request(info.name, ROTATION_PROBABILITIES, {"image": images[:1]})


def predict_request(model: str, signature: str, inputs: Mapping) -> predict_pb2.PredictRequest:
    """A request with these inputs by name, arrays."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


@dataclasses.dataclass(frozen=True)
class ServedVersion:
    """A version of an export that TensorFlow Serving is to serve.

    Attributes:
        out, version, make_stable, published: as in `write_serving_files`.
        name: of the model.

    Raises:
        FileNotFoundError: if the SavedModel is not there.
        ValueError: on a version below 1.
    """

    out: Path
    name: str
    version: int
    make_stable: bool = False
    published: Path | None = None

    def __post_init__(self):
        if self.version < 1:
            raise ValueError(f"`version` must be at least 1. Received: version={self.version}")
        if not (self._saved_model / "saved_model.pb").is_file():
            raise FileNotFoundError(f"{self._saved_model} holds no SavedModel")

    @property
    def _saved_model(self) -> Path:
        return self.out / "saved_model" / str(self.version)

    def write(
        self,
        requests: Iterable[predict_pb2.PredictRequest],
        templates: Mapping[str, str],
        values: Mapping[str, object],
    ) -> None:
        """Writes the warm-up requests, the files of `templates` (file -> template), and `models.config`.

        Files that are there already are kept, since they may have been tuned; the README is renewed.

        Args:
            requests: of the warm-up.
            templates: names of files and templates.
            values: for the templates, besides `name`, `image` and `label`.
        """
        config = self._updated_config()
        file = self._saved_model / WARMUP_FILE
        with atomic_path(file) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
            for request in requests:
                predict = prediction_log_pb2.PredictLog(request=request)
                writer.write(prediction_log_pb2.PredictionLog(predict_log=predict).SerializeToString())
        for name, template in templates.items():
            if name != README and ((self.published or self.out) / name).exists():
                logging.info("%s stays as it is", name)
                continue
            text = _Template((TEMPLATES / template).read_text(encoding="utf-8"))
            write_text(self.out / name, text.substitute(values, name=self.name, image=IMAGE, label=STABLE))
        # Last: a running server reads it anew and loads what it names.
        write_text(self.out / MODELS_CONFIG, config)

    def _updated_config(self) -> str:
        """The text of `models.config` with this version added.

        The first version is labelled `stable`, further ones `canary`, each in its predecessor's place. Only
        versions with a label are loaded. Labels of versions that are no longer in `saved_model/` go; other
        models and other settings of an existing file stay.
        """
        published = self.published or self.out
        config = _present(published / MODELS_CONFIG, self.name)
        model = next(model for model in config.model_config_list.config if model.name == self.name)
        there = {path.name for folder in (self.out, published) for path in folder.glob("saved_model/*")}
        labels = {label: number for label, number in model.version_labels.items() if str(number) in there}
        if self.make_stable or STABLE not in labels:
            labels[STABLE] = self.version
            labels.pop(CANARY, None)
        elif self.version not in labels.values():
            labels[CANARY] = self.version
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
        raise ValueError(f"{path} is not a configuration of TensorFlow Serving ({error})") from error
    names = [model.name for model in config.model_config_list.config]
    if name not in names:
        raise ValueError(
            f"{path} is about {', '.join(map(repr, names)) or 'no model'}, not {name!r}: "
            "export into another folder"
        )
    return config
