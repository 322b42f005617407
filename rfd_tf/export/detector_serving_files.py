"""What TensorFlow Serving wants beside a detector's SavedModel."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rfd_tf.atomic import write_text
from rfd_tf.detection.detector import Detector
from rfd_tf.export.detection_examples import Example
from rfd_tf.export.model_config import MODELS_CONFIG, updated_model_config
from rfd_tf.export.serving_files import COMPOSE, MONITORING, README, saved_model_version, write_from_templates
from rfd_tf.export.warmup_requests import MAX_BYTES, predict_request, write_requests

_TEMPLATES = {MONITORING: "monitoring.config", COMPOSE: "compose.yaml", README: "detector_readme.md"}


def write_detector_serving_files(
    out: Path,
    detector: Detector,
    version: int,
    examples: Sequence[Example],
    *,
    make_stable: bool = False,
    published: Path | None = None,
) -> None:
    """Makes a detector's export a folder that `docker compose up` serves.

    As `write_serving_files`, but without batching: the server would join the pictures of several requests
    into one, and proposals have no batch either.

    Args:
        out, version, make_stable, published: as of `write_serving_files`.
        detector: that was exported.
        examples: what the warm-up requests are made of, at least one.

    Raises:
        FileNotFoundError: if the SavedModel is not there.
        ValueError: if `out` serves a model of another name.
    """
    saved_model = saved_model_version(out, version)
    config = updated_model_config(out, detector.name, version, make_stable, published)
    write_requests(saved_model, _requests(detector.name, examples))
    values = {"name": detector.name, "batching": "", "classes": ", ".join(detector.class_names)}
    write_from_templates(out, _TEMPLATES, values, published)
    # Last: a running server reads it anew and loads what it names.
    write_text(out / MODELS_CONFIG, config)


def _requests(name: str, examples: Sequence[Example]) -> Iterator:
    yield predict_request(name, "about", {"ignored": np.array([b""], dtype=object)})
    size = 0
    for place, example in enumerate(examples):
        image, proposals = example.image, example.proposals
        size += image.nbytes + proposals.nbytes
        if place and size > MAX_BYTES:
            return
        yield predict_request(name, "jpeg", {"encoded": example.encoded, "proposals": proposals})
        yield predict_request(name, "serving_default", {"image": image, "proposals": proposals})
