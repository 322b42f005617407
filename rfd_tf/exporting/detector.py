"""A detector as a SavedModel for TensorFlow Serving, kept only if it matches the detector."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from rfd_tf.exporting.export_model import (
    SAVED_MODEL,
    ExportOptions,
    check_target,
    staged_folder,
    write_report,
)
from rfd_tf.exporting.parity import (
    Form,
    NamedImage,
    OutputParity,
    ParityError,
    check_parity,
    measure_parity,
    parity_entry,
)
from rfd_tf.exporting.writers import ABOUT, JPEG, save_functions


class Example(NamedTuple):
    """An image with proposals.

    Attributes:
        name: for the report.
        encoded: the bytes of its file.
        proposals: float32 [P, 4], see `detection.boxes`.
        exif_orientation: whether these refer to the image turned as its EXIF says.
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
        file = Path(folder, "image")
        for name, content in images:
            file.write_bytes(content)
            examples.append(Example(name, content, search(file), search.exif_orientation))
    return examples


def write_detector_saved_model(detector: Detector, folder: str | os.PathLike) -> None:
    """Writes a SavedModel with `assets/detector.json` (`Detector.facts`) and these signatures:

        serving_default: `image`, uint8 [H, W, 3], and `proposals`, float32 [P, 4], to `boxes`, float32
            [n, 4], `scores`, float32 [n], `classes`, int64 [n], from 0, and `count`, int32, n;
        jpeg: the same for `encoded`, a string, the bytes of an image file, instead of `image`;
        about: `ignored`, string [B], to `json`, string [B], each the text of the facts.

    Scaling, sharing of regions, and the suppression of duplicates are part of the model.

    Args:
        detector: to be written.
        folder: to be made, such as `DIR/saved_model/1`; it must not hold anything.

    Raises:
        FileExistsError: if it does.
    """
    facts = json.dumps(detector.facts())
    image = tf.TensorSpec([None, None, 3], tf.uint8, name="image")
    proposals = tf.TensorSpec([None, 4], tf.float32, name="proposals")
    encoded = tf.TensorSpec([], tf.string, name="encoded")
    ignored = tf.TensorSpec([None], tf.string, name="ignored")

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

    signatures = {"serving_default": serving_default, JPEG: jpeg, ABOUT: about}
    save_functions(folder, FACTS, facts, detector.model, signatures)


def _write_serving_files(staging: Path, out: Path, detector: Detector, version: int, examples) -> None:
    """As `serving_files.write_serving_files`, but without batching.

    The server would join the images of several requests into one, and neither images nor proposals have a
    batch dimension.
    """
    from rfd_tf.exporting.serving_files import COMPOSE, MONITORING, README, ServedVersion

    templates = {MONITORING: "monitoring.config", COMPOSE: "compose.yaml", README: "detector_readme.md"}
    served = ServedVersion(staging, detector.name, version, published=out)
    values = {"batching": "", "classes": ", ".join(detector.class_names)}
    served.write(_requests(detector.name, examples), templates, values)


def _requests(name: str, examples: Sequence[Example]) -> Iterator:
    from rfd_tf.exporting.serving_files import MAX_BYTES, predict_request

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


def export_detector(
    detector: Detector,
    out: str | os.PathLike,
    options: ExportOptions | None = None,
    examples: Sequence[Example] = (),
    source: str = "memory",
) -> list[OutputParity]:
    """Writes a detector in several formats, and keeps them only if each matches it on real images.

    Args:
        detector: to be exported.
        out: the export's folder, as in `export_model`. In the end it holds, as asked for,
            `saved_model/VERSION`, `detector.keras`, and `parity.json`.
        options: by default, and at most, the formats `"saved_model"` and `"keras"`; besides, `version`,
            `overwrite` and `serving` are used.
        examples: at least one.
        source: where the detector came from, for the report.

    Returns:
        What `parity.json` records of this version.

    Raises:
        ParityError: if a format finds something else, or nothing is found at all; then `out` is as it was.
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
    if options.serving:
        import rfd_tf.exporting.serving_files  # noqa: F401 - fails early
    expected = [detector(example.image, example.proposals) for example in examples]
    if not any(len(found.scores) for found in expected):
        raise ParityError(
            f"The detector finds nothing in {len(examples)} images, {examples[0].name} and on: there is "
            "nothing to compare. Give images of the objects"
        )
    batches = list(zip(examples, map(_named, expected), strict=True))
    with staged_folder(out) as staging:
        forms = _written(detector, staging, options)
        parities = measure_parity(forms, batches)
        check_parity(parities)
        if options.serving:
            _write_serving_files(staging, out, detector, options.version, examples)
        names = [example.name for example in examples]
        entry = parity_entry(parities, names, staging, source=source, input="uint8")
        write_report(staging, out, detector.name, options.version, entry)
    return parities


def _written(detector: Detector, staging: Path, options: ExportOptions) -> list[Form]:
    """Writes the formats; a batch of the forms is an `Example` with the detector's outputs."""

    def form(name: str, detect: Callable[[Example], Detections]) -> Form:
        return Form(name, "float32", lambda batch: _named(detect(batch[0])), lambda batch: batch[1])

    forms = []
    if "saved_model" in options.formats:
        folder = staging / SAVED_MODEL / str(options.version)
        write_detector_saved_model(detector, folder)
        saved = SavedDetector(folder)
        forms += [
            form("saved_model", lambda example: saved(example.image, example.proposals)),
            form("saved_model jpeg", lambda example: saved.from_file(example.encoded, example.proposals)),
        ]
    if "keras" in options.formats:
        save_detector(detector, staging / DETECTOR_FILE)
        opened = open_detector(staging / DETECTOR_FILE)
        forms.append(form("keras", lambda example: opened(example.image, example.proposals)))
    return forms


def _named(found: Detections) -> dict[str, np.ndarray]:
    return {output: getattr(found, name) for output, name in OUTPUTS.items()}
