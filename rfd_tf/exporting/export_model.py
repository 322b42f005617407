"""An export: written to a hidden folder, compared with the model, and only then moved into place."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.exporting.parity import (
    Form,
    NamedImage,
    OutputParity,
    bundled_images,
    check_parity,
    measure_parity,
    parity_entry,
)
from rfd_tf.exporting.writers import (
    OPSET,
    check_onnx_packages,
    check_openvino_packages,
    onnx_model,
    write_onnx,
    write_openvino,
    write_saved_model,
)
from rfd_tf.features.feature_model import BFLOAT16, FLOAT32, INPUTS, INT8, NORMALIZED
from rfd_tf.features.keras_feature_model import KerasFeatureModel, in_bfloat16, open_keras, save_keras
from rfd_tf.features.open_feature_model import (
    ONNX_FILES,
    OPENVINO_FILE,
    OPENVINO_INT8_FILE,
    REPORT,
    open_onnx,
    open_saved_model,
)
from rfd_tf.features.openvino_feature_model import open_openvino
from rfd_tf.files import naming, parse_json, write_text
from rfd_tf.models.folding import fold_batch_norm

FORMATS = ("saved_model", "onnx", "keras")  # by default
ALL_FORMATS = (*FORMATS, "openvino")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What an export consists of.

    Attributes:
        formats: of `"saved_model"`, `"onnx"`, `"keras"`, `"openvino"`.
        input: what SavedModel, ONNX and OpenVINO take: `"normalized"` images or `"uint8"` pixels.
        precision: of SavedModel and OpenVINO: `"float32"`, or `"bfloat16"` where it will run on processors
            and GPUs that have it. With `"int8"`, without SavedModel, a second file for OpenVINO is written,
            calibrated on the images that are compared.
        onnx_precisions: of `"float32"`, `"float16"`, `"int8"`: a file each.
        fold_batch_norm: whether batch norms are folded in what becomes ONNX. The SavedModel stays as it is:
            TensorFlow 2.21's oneDNN pass crashes on a padded convolution with bias and a residual sum, which
            is what folding makes of a ResNet. So does the `.keras` file: it is for fine-tuning.
        version: of the SavedModel, from 1 on.
        overwrite: whether to replace a version that is there.
        serving: whether to add the files for TensorFlow Serving; needs the format `"saved_model"`.

    Raises:
        ValueError: on a value out of range.
    """

    formats: tuple[str, ...] = FORMATS
    input: str = NORMALIZED
    precision: str = FLOAT32
    onnx_precisions: tuple[str, ...] = ("float32",)
    fold_batch_norm: bool = False
    version: int = 1
    overwrite: bool = False
    serving: bool = False

    def __post_init__(self):
        for field, allowed in (("formats", ALL_FORMATS), ("onnx_precisions", tuple(ONNX_FILES))):
            given = getattr(self, field)
            if not given or set(given) - set(allowed) or len(set(given)) < len(given):
                raise ValueError(f"`{field}` must be some of {', '.join(allowed)}. Received: {given}")
        if self.input not in INPUTS:
            raise ValueError(f"`input` must be one of {', '.join(INPUTS)}. Received: input={self.input!r}")
        if self.precision not in (allowed := (FLOAT32, BFLOAT16, INT8)):
            raise ValueError(
                f"`precision` must be one of {', '.join(allowed)}. Received: precision={self.precision!r}"
            )
        if self.precision == INT8 and ("saved_model" in self.formats or "openvino" not in self.formats):
            raise ValueError(
                f"`precision` int8 is for the format openvino, without saved_model. Received: {self.formats}"
            )
        if self.version < 1:
            raise ValueError(f"`version` must be at least 1. Received: version={self.version}")
        if self.serving and "saved_model" not in self.formats:
            raise ValueError(f"`serving` needs the format saved_model. Received: formats={self.formats}")


SAVED_MODEL = "saved_model"
MERGED = (SAVED_MODEL, "serving")  # containers mount these and would not see a new folder
FORMAT = 1


def check_target(out: Path, model: str, version: int, overwrite: bool) -> None:
    """Refuses a folder that cannot take this version of this model.

    Raises:
        FileExistsError: if the version is there, unless `overwrite`.
        ValueError: if `out` is not an export of the model named `model`.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is not a folder")
    strangers = sorted(child.name for child in out.iterdir() if not child.name.startswith("."))
    if not strangers:
        return
    if not (out / REPORT).is_file():
        raise ValueError(f"{out} holds {strangers[0]!r} and no {REPORT}: give a new folder")
    report = read_report(out)
    if report["model"] != model:
        raise ValueError(f"{out} is an export of {report['model']!r}, not of {model!r}: give another folder")
    taken = str(version) in report["versions"] or (out / SAVED_MODEL / str(version)).exists()
    if taken and not overwrite:
        raise FileExistsError(f"{out} holds version {version}: give --version=N of a new one, or --overwrite")


def read_report(out: Path) -> dict:
    """The content of `out/parity.json`; ValueError if it is not a report."""
    path = out / REPORT
    try:
        report = parse_json(path.read_text(encoding="utf-8"))
        if report["format"] > FORMAT or not isinstance(report["versions"], dict):
            raise ValueError("it was written by a newer version")
        return report
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the report of an export ({error})") from error


def write_report(staging: Path, out: Path, model: str, version: int, entry: dict) -> None:
    """Writes `staging/parity.json`: the entries of `out`'s other versions, and this one's."""
    versions = read_report(out)["versions"] if (out / REPORT).is_file() else {}
    versions[str(version)] = entry
    ordered = dict(sorted(versions.items(), key=lambda item: int(item[0])))
    report = {"format": FORMAT, "model": model, "versions": ordered}
    write_text(staging / REPORT, json.dumps(report, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A hidden temporary folder to fill; what it holds goes into `out` when the block ends.

    A new `out` appears by one renaming. In an existing one, files and versions of the SavedModel are replaced
    one by one, each by one renaming, the report last. If the block raises, `out` stays as it was.
    """
    exists, suffix = out.exists(), f"{os.getpid()}.partial"
    staging = out / f".export.{suffix}" if exists else out.with_name(f".{out.name}.{suffix}")
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process with the same number
    staging.mkdir(parents=True)
    try:
        with naming(out):
            yield staging
        if exists:
            _publish(staging, out)
        else:
            staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, out: Path) -> None:
    old = staging / ".old"
    # By name, `saved_model` comes before `serving`, whose `models.config` a running server follows.
    for item in sorted(staging.iterdir(), key=lambda item: (item.name == REPORT, item.name)):
        final = out / item.name
        if item.name in MERGED:
            final.mkdir(exist_ok=True)
            for part in sorted(item.iterdir()):
                _replace(part, final / part.name, old)
        else:
            _replace(item, final, old)


def _replace(new: Path, final: Path, old: Path) -> None:
    if final.is_dir():
        old.mkdir(exist_ok=True)
        final.rename(old / final.name)
    os.replace(new, final)


KERAS_FILE = "model.keras"
BATCH = 16  # images compared at once, and how many there are by default


def export_model(
    feature_model: KerasFeatureModel,
    out: str | os.PathLike,
    options: ExportOptions | None = None,
    examples: Sequence[NamedImage] | None = None,
) -> list[OutputParity]:
    """Writes a model in several formats, and keeps them only if each matches the model on real images.

    Args:
        feature_model: the model.
        out: the export's folder; it may hold other versions of the same model. In the end it holds, as
            asked for, `saved_model/VERSION`, `model.onnx` and those of other precisions, `model.keras`,
            `openvino/model.xml` with its `.bin`, and `parity.json`.
        options: see there; by default all formats.
        examples: (name, an image file's bytes) to compare on; by default crops of scikit-learn's photographs.

    Returns:
        What `parity.json` records of this version.

    Raises:
        ParityError: if a format computes something else; then `out` is as it was.
        FileExistsError: if the version is there, unless `options.overwrite`.
        ValueError: if `out` holds something else, or there are no examples.
        ImportError: where ONNX is asked for without the extra `onnx`, OpenVINO without `openvino`, or
            `serving` without that one.
    """
    options, out = options or ExportOptions(), Path(out)
    check_target(out, feature_model.info.name, options.version, options.overwrite)
    if "onnx" in options.formats:
        check_onnx_packages()
    if "openvino" in options.formats:
        check_openvino_packages(options.precision)
    if options.serving:
        from rfd_tf.exporting.serving_files import write_serving_files
    examples = bundled_images(BATCH) if examples is None else list(examples)
    if not examples:
        raise ValueError("`examples` is empty: there is nothing to compare the export on")
    files = [content for _, content in examples]
    prepare = feature_model.info.preprocessing.eval_image
    prepared = np.stack([prepare(tf.constant(content)).numpy() for content in files])
    starts = range(0, len(files), BATCH)
    batches = [(prepared[start : start + BATCH], files[start : start + BATCH]) for start in starts]
    served = KerasFeatureModel(
        feature_model.model,
        dataclasses.replace(feature_model.info, input=options.input),
        feature_model.location,
    )
    with staged_folder(out) as staging:
        forms = []
        if "saved_model" in options.formats:
            folder = staging / SAVED_MODEL / str(options.version)
            write_saved_model(in_bfloat16(served) if options.precision == BFLOAT16 else served, folder)
            opened = open_saved_model(folder)
            forms += [
                Form("saved_model", options.precision, _on_images(opened), _on_images(served)),
                Form("saved_model jpeg", options.precision, _on_files(opened), _on_images(served)),
            ]
        if "onnx" in options.formats:
            forms += _write_onnx(served, staging, options)
        if "openvino" in options.formats:
            forms += _write_openvino(served, staging, options, prepared)
        if "keras" in options.formats:
            save_keras(feature_model, staging / KERAS_FILE)
            opened = open_keras(staging / KERAS_FILE)
            forms.append(Form("keras", "float32", _on_images(opened), _on_images(feature_model)))
        parities = measure_parity(forms, batches)
        check_parity(parities)
        if options.serving:
            write_serving_files(staging, served.info, options.version, files, published=out)
        entry = parity_entry(
            parities,
            [name for name, _ in examples],
            staging,
            source=feature_model.location,
            input=options.input,
            precision=options.precision,
            onnx_opset=OPSET if "onnx" in options.formats else None,
        )
        write_report(staging, out, feature_model.info.name, options.version, entry)
    return parities


def _write_onnx(served: KerasFeatureModel, staging: Path, options: ExportOptions) -> list[Form]:
    source = served
    if options.fold_batch_norm:
        source = KerasFeatureModel(fold_batch_norm(served.model), served.info, served.location)
    converted = onnx_model(source)
    forms = []
    for precision in options.onnx_precisions:
        write_onnx(converted, staging / ONNX_FILES[precision], precision)
        opened = open_onnx(staging / ONNX_FILES[precision])
        forms.append(Form(f"onnx {precision}", precision, _on_images(opened), _on_images(served)))
    return forms


def _write_openvino(
    served: KerasFeatureModel, staging: Path, options: ExportOptions, prepared: np.ndarray
) -> list[Form]:
    main = BFLOAT16 if options.precision == BFLOAT16 else FLOAT32
    files = [("openvino", OPENVINO_FILE, main)]
    if options.precision == INT8:
        files.append(("openvino int8", OPENVINO_INT8_FILE, INT8))
    forms = []
    for name, file, precision in files:
        write_openvino(served, staging / file, precision, prepared)
        opened = open_openvino(staging / file)
        forms.append(Form(name, precision, _on_images(opened), _on_images(served)))
    return forms


def _on_images(feature_model) -> Callable:
    return lambda batch: feature_model(batch[0])


def _on_files(feature_model) -> Callable:
    return lambda batch: feature_model.from_files(batch[1])
