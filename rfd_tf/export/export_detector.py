"""A detector in forms that others can run, each proven equal to it."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rfd_tf.detection.detect import Detections
from rfd_tf.detection.detector import DETECTOR_FILE, Detector, open_detector, save_detector
from rfd_tf.detection.saved_detector import OUTPUTS, SavedDetector
from rfd_tf.export.detection_examples import Example
from rfd_tf.export.detector_saved_model import write_detector_saved_model
from rfd_tf.export.export_options import ExportOptions
from rfd_tf.export.parity import OutputParity, ParityError, check_parity, compared, merged
from rfd_tf.export.parity_report import parity_entry
from rfd_tf.export.staging import SAVED_MODEL, check_target, staged_folder, write_report

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
    """Writes a detector's forms, compares each with it on real pictures, and leaves them only if equal.

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
    if options.serving:
        from rfd_tf.export.detector_serving_files import write_detector_serving_files
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
            f"The detector finds nothing in {len(examples)} pictures, {examples[0].name} and on: there is "
            "nothing to compare. Give pictures of the objects"
        )
    parities = []
    for form in forms:
        actual = [form.detect(example) for example in examples]
        for output, name in OUTPUTS.items():
            values = zip(actual, expected, strict=True)
            pairs = [(getattr(ours, name), getattr(theirs, name)) for ours, theirs in values]
            parities.append(merged([compared(form.name, output, "float32", *pair) for pair in pairs]))
    return parities
