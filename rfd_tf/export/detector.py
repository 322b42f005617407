"""A detector as a SavedModel for TensorFlow Serving, compared with the detector before it is kept."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import decode
from rfd_tf.data.bad_images import image_problem
from rfd_tf.detection.detector import (
    DETECTOR_FILE,
    FACTS,
    OUTPUTS,
    Detections,
    Detector,
    SavedDetector,
    open_detector,
    save_detector,
)
from rfd_tf.detection.proposals import SelectiveSearch
from rfd_tf.export.export_model import SAVED_MODEL, ExportOptions, check_target, staged_folder, write_report
from rfd_tf.export.parity import (
    NamedImage,
    OutputParity,
    ParityError,
    check_parity,
    compared,
    merged,
    parity_entry,
)
from rfd_tf.export.saved_model import ABOUT, JPEG, save_functions
from rfd_tf.export.serving_files import (
    COMPOSE,
    MAX_BYTES,
    MODELS_CONFIG,
    MONITORING,
    README,
    predict_request,
    saved_model_version,
    updated_model_config,
    write_from_templates,
    write_requests,
)
from rfd_tf.files import write_text


class Example(NamedTuple):
    """An image with proposals.

    Attributes:
        name: for the report.
        encoded: the bytes of its file.
        proposals: float32 [P, 4], see `detection.boxes`.
        exif_orientation: whether these are in the image as it is shown.
    """

    name: str
    encoded: bytes
    proposals: np.ndarray
    exif_orientation: bool = True

    @property
    def image(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return decode(tf.constant(self.encoded), self.exif_orientation).numpy()


def searched_examples(images: Sequence[NamedImage], search: SelectiveSearch | None = None) -> list[Example]:
    """The images with the proposals of selective search, about a second each.

    Raises:
        ImportError: without the extra `detection`.
    """
    search = search or SelectiveSearch()
    examples = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "picture")
        for name, content in images:
            file.write_bytes(content)
            examples.append(Example(name, content, search(file), search.exif_orientation))
    return examples


def write_detector_saved_model(detector: Detector, folder: str | os.PathLike) -> None:
    """Writes a SavedModel with `assets/detector.json` (`Detector.facts`) and these signatures:

        serving_default: `image`, uint8 [H, W, 3], and `proposals`, float32 [P, 4], to `boxes`, float32
            [n, 4], `scores`, float32 [n], `classes`, int64 [n], from 0, and `count`, int32, n;
        jpeg: the same, but for `encoded`, a string, the bytes of an image's file, instead of `image`;
        about: `ignored`, string [B], to `json`, string [B], each the text of the facts.

    Scaling, sharing of regions, and the suppression of what is found twice are within.

    Args:
        detector: to be written.
        folder: to be made, such as `DIR/saved_model/1`; it must not hold anything.

    Raises:
        FileExistsError: if it does.
    """
    facts = json.dumps(detector.facts())
    save_functions(folder, FACTS, facts, detector.model, _signatures(detector, facts))


def _signatures(detector: Detector, facts: str) -> dict:
    image = tf.TensorSpec([None, None, 3], tf.uint8, name="image")
    proposals = tf.TensorSpec([None, 4], tf.float32, name="proposals")
    encoded, ignored = (
        tf.TensorSpec([], tf.string, name="encoded"),
        tf.TensorSpec([None], tf.string, "ignored"),
    )

    def found(pixels, boxes):
        pixels, boxes = tf.ensure_shape(pixels, image.shape), tf.ensure_shape(boxes, proposals.shape)
        outputs = detector.traced(pixels, boxes)
        named = {name: outputs[ours] for name, ours in OUTPUTS.items()}
        return {**named, "count": tf.size(outputs["scores"])}

    @tf.function(autograph=False, input_signature=[image, proposals])
    def serving_default(image, proposals):
        return found(image, proposals)

    @tf.function(autograph=False, input_signature=[encoded, proposals])
    def jpeg(encoded, proposals):
        encoded = tf.ensure_shape(encoded, [])  # servers check types only
        problem = image_problem(encoded)
        with tf.control_dependencies([tf.debugging.Assert(problem == "", [problem])]):
            return found(decode(tf.identity(encoded), detector.exif_orientation), proposals)

    @tf.function(autograph=False, input_signature=[ignored])
    def about(ignored):
        return {"json": tf.fill(tf.shape(ignored), facts)}

    return {"serving_default": serving_default, JPEG: jpeg, ABOUT: about}


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

    As `write_serving_files`, but without batching: the server would join the images of several requests
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


DETECTOR_FORMATS = ("saved_model", "keras")


class _Form(NamedTuple):
    name: str
    detect: Callable[[Example], Detections]


def export_detector(
    detector: Detector,
    out: str | os.PathLike,
    options: ExportOptions | None = None,
    examples: Sequence[Example] = (),
    source: str = "memory",
) -> list[OutputParity]:
    """Writes a detector's forms, compares each with it on real images, and leaves them only if equal.

    Args:
        detector: to be exported.
        out: the export's folder, as of `export_model`. In the end it holds, as asked for,
            `saved_model/VERSION`, `detector.keras`, and `parity.json`.
        options: by default, and at most, the formats `"saved_model"` and `"keras"`; `version`, `overwrite`
            and `serving` count, the others do not.
        examples: at least one.
        source: where the detector came from, for the report.

    Returns:
        What `parity.json` records of this version.

    Raises:
        ParityError: if a form finds something else, or nothing is found at all; then `out` is as it was.
        FileExistsError: if the version is there, unless `options.overwrite`.
        ValueError: if `out` holds something else, ONNX is asked for, or there are no examples.
        ImportError: where `serving` is asked for without that extra.
    """
    options, out = options or ExportOptions(formats=DETECTOR_FORMATS), Path(out)
    if odd := set(options.formats) - set(DETECTOR_FORMATS):
        raise ValueError(f"A detector's `formats` are {', '.join(DETECTOR_FORMATS)}. Received: {odd.pop()}")
    if not examples:
        raise ValueError("`examples` is empty: there is nothing to compare the export on")
    check_target(out, detector.name, options.version, options.overwrite)
    with staged_folder(out) as staging:
        forms = _written(detector, staging, options)
        parities = _measured(detector, forms, examples)
        check_parity(parities)
        if options.serving:
            write_detector_serving_files(staging, detector, options.version, examples, published=out)
        names = [example.name for example in examples]
        entry = parity_entry(parities, names, staging, source=source, input="uint8")
        write_report(staging, out, detector.name, options.version, entry)
    return parities


def _written(detector: Detector, staging: Path, options: ExportOptions) -> list[_Form]:
    forms = []
    if "saved_model" in options.formats:
        folder = staging / SAVED_MODEL / str(options.version)
        write_detector_saved_model(detector, folder)
        saved = SavedDetector(folder)
        forms += [
            _Form("saved_model", lambda example: saved(example.image, example.proposals)),
            _Form("saved_model jpeg", lambda example: saved.from_file(example.encoded, example.proposals)),
        ]
    if "keras" in options.formats:
        save_detector(detector, staging / DETECTOR_FILE)
        opened = open_detector(staging / DETECTOR_FILE)
        forms.append(_Form("keras", lambda example: opened(example.image, example.proposals)))
    return forms


def _measured(detector: Detector, forms: Iterable[_Form], examples: Sequence[Example]) -> list[OutputParity]:
    """Every output of every form beside the detector's, on these examples."""
    expected = [detector(example.image, example.proposals) for example in examples]
    if not any(len(found.scores) for found in expected):
        raise ParityError(
            f"The detector finds nothing in {len(examples)} images, {examples[0].name} and on: there is "
            "nothing to compare. Give images of the objects"
        )
    parities = []
    for form in forms:
        actual = [form.detect(example) for example in examples]
        for output, name in OUTPUTS.items():
            values = zip(actual, expected, strict=True)
            pairs = [(getattr(ours, name), getattr(theirs, name)) for ours, theirs in values]
            parities.append(merged([compared(form.name, output, "float32", *pair) for pair in pairs]))
    return parities
