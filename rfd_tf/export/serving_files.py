"""What TensorFlow Serving wants beside a SavedModel."""

from pathlib import Path
from string import Template

from absl import logging

from rfd_tf.atomic import write_text
from rfd_tf.export.model_config import MODELS_CONFIG, STABLE, updated_model_config
from rfd_tf.export.warmup_requests import write_warmup_requests
from rfd_tf.extractors.model_info import ModelInfo
from rfd_tf.serving.client import MAX_BATCH

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
        sample_images: encoded pictures that the warm-up requests are made of, at least one.
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
