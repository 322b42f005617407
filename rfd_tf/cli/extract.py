"""`rfd extract`: features of a collection of images, as Parquet or NPZ."""

import functools
import os
import sys

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.cli.models import (
    MODEL_HELP,
    define_exif_orientation,
    define_heads_from,
    define_precision,
    define_preprocessing,
    model_options,
    open_model,
)
from rfd_tf.files import absolute_location
from rfd_tf.image_header import MAX_PIXELS

USAGE = """rfd extract --model=X --images=FOLDER|LIST|FILE.npz --out=DIR [--outputs=features,...] [flags]

Writes the features of every image, with its file name and index, in shards that other programs read; see
docs/extraction.md. Started again with the same arguments, it continues where it was. Bad images are named
and skipped. --runner=NAME runs it on Apache Beam; further flags of Beam come after `--`.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv, beam_flags = command_line.split_beam_flags(sys.argv if argv is None else argv)
    values = flags.FlagValues()
    _define(values)
    if (status := command_line.parse(values, argv, USAGE)) is not None:
        return status
    if problem := command_line.missing(values, "model", "images", "out"):
        return command_line.fail(argv[0], problem)
    if problem := command_line.beam_without_runner(values, beam_flags):
        return command_line.fail(argv[0], problem)
    return command_line.run(argv[0], lambda: _extract(values, beam_flags))


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("model", None, MODEL_HELP, flag_values=values)
    define_heads_from(values)
    flags.DEFINE_string(
        "images",
        None,
        "a folder of images or of one folder per class, a list of them (rows `path`, `path label` or "
        "`path,label`), or an .npz file",
        flag_values=values,
    )
    flags.DEFINE_string("out", None, "the folder to write", flag_values=values)
    flags.DEFINE_list("outputs", ["features"], "outputs of the model, by name", flag_values=values)
    flags.DEFINE_enum("format", "parquet", ["parquet", "npz"], "of the shards", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "of the features", flag_values=values)
    flags.DEFINE_integer("shard_size", 4096, "images of a shard", 1, flag_values=values)
    flags.DEFINE_integer("batch_size", 64, "images the model gets at once", 1, flag_values=values)
    flags.DEFINE_enum("on_error", "skip", ["skip", "raise"], "at a bad image", flag_values=values)
    flags.DEFINE_integer(
        "max_pixels", MAX_PIXELS, "larger images are refused before decoding", 1, flag_values=values
    )
    define_precision(values)
    define_exif_orientation(values)
    define_preprocessing(values)
    flags.DEFINE_string("images_root", "", "what a list's paths are relative to", flag_values=values)
    flags.DEFINE_string("npz_key", "", "which array of an .npz file", flag_values=values)
    command_line.define_runner(values)


def _extract(values: flags.FlagValues, beam_flags: list[str]) -> None:
    skipped = _on_beam(values, beam_flags) if values.runner else _here(values)
    if skipped:
        print(f"Skipped images: {len(skipped)} (the first is {skipped[0].path}: {skipped[0].reason})")
    print(f"Features: {os.path.join(values.out, 'manifest.json')}")


def _here(values: flags.FlagValues):
    from rfd_tf.data import open_images
    from rfd_tf.features import ExtractOptions, extract
    from rfd_tf.files import LocalStorage
    from rfd_tf.models.inference import feature_map_names

    storage = LocalStorage(values.out)
    with storage.locked():
        source = open_images(values.images, values.images_root, values.npz_key)
        maps = feature_map_names(values.outputs)
        with open_model(values.model, maps, **_model_options(values)) as feature_model:
            print(_computed_by(feature_model))
            settings = _settings(feature_model, source, values)
            options = ExtractOptions(values.batch_size, values.on_error)
            return extract(feature_model, source, settings, storage, options)


def _model_options(values: flags.FlagValues) -> dict:
    return {**model_options(values), "precision": values.precision, "fastest": True}


def _computed_by(feature_model) -> str:
    return f"Computed by {feature_model.runtime} in {feature_model.info.precision}: {feature_model.location}"


def _on_beam(values: flags.FlagValues, beam_flags: list[str]):
    beam = command_line.import_beam()  # first: it may be missing, and the rest loads Keras
    from rfd_tf.models.inference import feature_map_names

    model, maps = values.model, feature_map_names(values.outputs)
    open_worker_model = functools.partial(_open_anywhere, model, maps, _model_options(values))
    if "://" in values.images:
        source = beam.open_beam_files(values.images, values.images_root)
    else:
        from rfd_tf.data import open_images

        source = open_images(values.images, values.images_root, values.npz_key)
    with open_worker_model() as feature_model:
        print(_computed_by(feature_model))
        settings = _settings(feature_model, source, values)
    return beam.extract_on_beam(
        open_worker_model,
        source,
        settings,
        values.out,
        values.runner,
        beam_flags,
        beam.ExtractOptions(values.batch_size, values.on_error),
    )


def _open_anywhere(location: str, feature_maps: list[str], options: dict):
    with command_line.import_beam().local_model(location) as model:
        return open_model(model, feature_maps, **options)


def _settings(feature_model, source, values: flags.FlagValues):
    from rfd_tf.features.store import describe_extraction

    return describe_extraction(
        feature_model,
        absolute_location(values.model),
        source,
        absolute_location(values.images),
        values.outputs,
        format=values.format,
        dtype=values.dtype,
        shard_size=values.shard_size,
        max_pixels=values.max_pixels,
    )


if __name__ == "__main__":
    sys.exit(main())
