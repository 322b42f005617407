"""`rfd export`: a model or a detector as SavedModel, ONNX and `.keras`, proven equal."""

import signal
import sys
from pathlib import Path
from typing import Any

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.cli.models import (
    KERAS_MODEL_HELP,
    define_exif_orientation,
    define_heads_from,
    define_preprocessing,
    define_svd,
    model_options,
    open_any_detector,
    open_model,
)

USAGE = """rfd export --model=MODEL --out=DIR [flags]

Writes DIR/saved_model/1, DIR/model.onnx and DIR/model.keras, compares each with the model on real images,
and leaves nothing if one of them computes something else. DIR/parity.json keeps the figures.

Of a detector (a run of rfd detect, or its detector.keras) DIR/saved_model/1 and DIR/detector.keras.
"""
_NOT_FOR_DETECTORS = ("features", "heads_from", "input", "fold_batch_norm", "onnx_precision")


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = sys.argv if argv is None else argv
    given = _define_flags()
    if (status := command_line.parse(given, argv, USAGE)) is not None:
        return status
    if problem := command_line.missing(given, "model", "out"):
        return command_line.fail(argv[0], problem)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # tidies up on its way
    return command_line.run(argv[0], lambda: _export(given))


def _define_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("model", None, KERAS_MODEL_HELP, **define)
    define_heads_from(values)
    flags.DEFINE_string("out", None, "the export's folder", **define)
    formats = "what to write, of saved_model, onnx, keras; by default all, of a detector all but onnx"
    flags.DEFINE_list("formats", None, formats, **define)
    flags.DEFINE_list("features", "", "feature maps to give besides, such as conv1,conv5; or all", **define)
    flags.DEFINE_string("input", "normalized", "of SavedModel and ONNX: normalized or uint8 pixels", **define)
    flags.DEFINE_bool(
        "fold_batch_norm", False, "ONNX with batch norms folded into the layers before", **define
    )
    flags.DEFINE_list("onnx_precision", "float32", "of float32, float16, int8: a file each", **define)
    flags.DEFINE_integer("version", 1, "of the SavedModel", **define)
    flags.DEFINE_bool("overwrite", False, "replace the version if it is there", **define)
    flags.DEFINE_bool("serving", False, "add what TensorFlow Serving wants, see docs/serving.md", **define)
    flags.DEFINE_string("images", None, "an image, or a folder of images, to compare on", **define)
    define_exif_orientation(values)
    define_svd(values)
    define_preprocessing(values)
    flags.DEFINE_integer("num_images", 16, "how many to compare on", lower_bound=1, **define)
    return values


def _export(given: flags.FlagValues) -> None:
    from rfd_tf.detection.detector import is_detector
    from rfd_tf.exporting.parity import parity_table

    export = _export_detector if is_detector(given.model) else _export_model
    options = _options(given, export is _export_detector)
    images = _images(given.model, given.images, given.num_images)
    name, parities = export(given, options, images)
    print(f"{name}, compared on {len(images)} images, {images[0][0]} and on:")
    print(parity_table(parities))
    print(f"\nExported: {given.out}")


def _options(given: flags.FlagValues, is_detector: bool):
    from rfd_tf.exporting.export_model import FORMATS, ExportOptions

    formats: tuple[str, ...] = FORMATS
    if is_detector:
        from rfd_tf.exporting.detector import DETECTOR_FORMATS

        formats = DETECTOR_FORMATS
        if changed := [name for name in _NOT_FOR_DETECTORS if not given[name].using_default_value]:
            raise ValueError(f"--{changed[0]} is not for detectors, which {given.model} is one of")
    elif given.svd is not None:
        raise ValueError(f"--svd is for detectors, which {given.model} is not one of")
    return ExportOptions(
        formats=formats if given.formats is None else tuple(given.formats),
        input=given.input,
        onnx_precisions=tuple(given.onnx_precision),
        fold_batch_norm=given.fold_batch_norm,
        version=given.version,
        overwrite=given.overwrite,
        serving=given.serving,
    )


def _export_detector(given: flags.FlagValues, options, images):
    from rfd_tf.detection.proposals import SelectiveSearch
    from rfd_tf.exporting.detector import export_detector, searched_examples

    detector = open_any_detector(given)
    examples = searched_examples(images, SelectiveSearch(exif_orientation=detector.exif_orientation))
    return detector.name, export_detector(detector, given.out, options, examples, source=given.model)


def _export_model(given: flags.FlagValues, options, images):
    from rfd_tf.exporting.export_model import export_model
    from rfd_tf.features import KerasFeatureModel

    maps = None if given.features == ["all"] else given.features
    feature_model = open_model(given.model, maps, **model_options(given))
    if not isinstance(feature_model, KerasFeatureModel):
        raise ValueError(
            f"--model={given.model}: only Keras models can be exported: "
            "a run's folder, a .keras file, zoo:NAME"
        )
    return feature_model.info.name, export_model(feature_model, given.out, options, images)


def _images(model: str, images: str | None, count: int):
    from rfd_tf.exporting.parity import bundled_images, images_at, images_of_run

    if images:
        return images_at(Path(images), count)
    found = images_of_run(Path(model), count) if Path(model).is_dir() else []
    return found or bundled_images(count)


if __name__ == "__main__":
    sys.exit(main())
