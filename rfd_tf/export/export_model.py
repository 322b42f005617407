"""A model in every form that others can run, each proven equal to it."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from rfd_tf.export.export_options import ExportOptions
from rfd_tf.export.onnx_file import FILES, OPSET, check_onnx_packages, onnx_model, write_onnx
from rfd_tf.export.parity import Form, OutputParity, check_parity, measure_parity
from rfd_tf.export.parity_pictures import Picture, bundled_pictures
from rfd_tf.export.parity_report import parity_entry
from rfd_tf.export.saved_model import write_saved_model
from rfd_tf.export.staging import SAVED_MODEL, check_target, staged_folder, write_report
from rfd_tf.extractors.keras_extractor import KerasExtractor, open_keras, save_keras
from rfd_tf.extractors.onnx_extractor import open_onnx
from rfd_tf.extractors.saved_model_extractor import open_saved_model

KERAS_FILE = "model.keras"
_DEFAULT_PICTURES = 16


def export_model(
    extractor: KerasExtractor,
    out: str | os.PathLike,
    options: ExportOptions | None = None,
    pictures: Sequence[Picture] | None = None,
    fold_batch_norm: Callable[[keras.Model], keras.Model] | None = None,
) -> list[OutputParity]:
    """Writes a model's forms, compares each with the model on real pictures, and leaves them only if equal.

    Args:
        extractor: the model.
        out: the export's folder; it may hold other versions of the same model. In the end it holds, as
            asked for, `saved_model/VERSION`, `model.onnx` and those of other precisions, `model.keras`, and
            `parity.json`.
        options: see there; by default all formats.
        pictures: (name, a picture file's bytes) to compare on; by default crops of scikit-learn's
            photographs.
        fold_batch_norm: `zoo.fold_batch_norm`, to be applied to what becomes ONNX. The SavedModel stays as it
            is: TensorFlow 2.21's oneDNN pass crashes on a padded convolution with bias and a residual sum,
            which is what folding makes of a ResNet. So does the `.keras` file: it is for fine-tuning.

    Returns:
        What `parity.json` records of this version.

    Raises:
        ParityError: if a form computes something else; then `out` is as it was.
        FileExistsError: if the version is there, unless `options.overwrite`.
        ValueError: if `out` holds something else, or there are no pictures.
        ImportError: where ONNX is asked for without the extra `onnx`, or `serving` without that one.
    """
    options, out = options or ExportOptions(), Path(out)
    check_target(out, extractor.info.name, options.version, options.overwrite)
    if "onnx" in options.formats:
        check_onnx_packages()
    if options.serving:
        from rfd_tf.export.serving_files import write_serving_files
    pictures = bundled_pictures(_DEFAULT_PICTURES) if pictures is None else list(pictures)
    if not pictures:
        raise ValueError("`pictures` is empty: there is nothing to compare the export on")
    files = [content for _, content in pictures]
    images = _prepared(files, extractor)
    served = KerasExtractor(
        extractor.model, dataclasses.replace(extractor.info, input=options.input), extractor.location
    )
    with staged_folder(out) as staging:
        forms = []
        if "saved_model" in options.formats:
            forms += _write_saved_model(served, staging / SAVED_MODEL / str(options.version))
        if "onnx" in options.formats:
            forms += _write_onnx(served, staging, options.onnx_precisions, fold_batch_norm)
        if "keras" in options.formats:
            save_keras(extractor, staging / KERAS_FILE)
            forms.append(Form("keras", "float32", _on_images(open_keras(staging / KERAS_FILE)), extractor))
        parities = measure_parity(forms, images, files)
        check_parity(parities)
        if options.serving:
            write_serving_files(staging, served.info, options.version, files, published=out)
        entry = parity_entry(
            parities,
            [name for name, _ in pictures],
            staging,
            source=extractor.location,
            input=options.input,
            onnx_opset=OPSET if "onnx" in options.formats else None,
        )
        write_report(staging, out, extractor.info.name, options.version, entry)
    return parities


def _prepared(files: Sequence[bytes], extractor: KerasExtractor) -> np.ndarray:
    prepare = extractor.info.preprocessing.eval_image
    return np.stack([prepare(tf.constant(content)).numpy() for content in files])


def _write_saved_model(served: KerasExtractor, folder: Path) -> list[Form]:
    write_saved_model(served, folder)
    opened = open_saved_model(folder)
    return [
        Form("saved_model", "float32", _on_images(opened), served),
        Form("saved_model jpeg", "float32", _on_files(opened), served),
    ]


def _write_onnx(served: KerasExtractor, staging: Path, precisions, fold_batch_norm) -> list[Form]:
    source = served
    if fold_batch_norm is not None:
        source = KerasExtractor(fold_batch_norm(served.model), served.info, served.location)
    converted = onnx_model(source)
    forms = []
    for precision in precisions:
        write_onnx(converted, staging / FILES[precision], precision)
        opened = open_onnx(staging / FILES[precision])
        forms.append(Form(f"onnx {precision}", precision, _on_images(opened), served))
    return forms


def _on_images(opened) -> Callable:
    return lambda images, files: opened(images)


def _on_files(opened) -> Callable:
    return lambda images, files: opened.from_files(files)
