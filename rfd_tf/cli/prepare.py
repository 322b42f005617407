"""`rfd prepare`: a collection of images once decoded and resized, in shards that every command reads."""

import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from rfd_tf.cli import command_line

USAGE = """rfd prepare --root=FOLDER|LIST|FILE.npz --out=DIR [--short_side=256] [--format=jpeg|raw] [flags]
rfd prepare --source=KIND [--root=...] [--split=...] [--name=...] --out=DIR [flags]

Decodes every image once, turns it as its EXIF says, resizes it, and writes it into shards, so that training
reads less and decodes less; see docs/scale.md. `--config.data.source=prepared --config.data.root=DIR` reads
them, as do --images=DIR and functions that take a folder. Started again with the same arguments, it continues
where it was. --runner=NAME runs it on Apache Beam; further flags of Beam come after `--`.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv, beam_flags = command_line.split_beam_flags(sys.argv if argv is None else argv)
    values = flags.FlagValues()
    _define(values)
    if (status := command_line.parse(values, argv, USAGE)) is not None:
        return status
    if problem := command_line.missing(values, "out"):
        return command_line.fail(argv[0], problem)
    if not values.source and not values.root:
        return command_line.fail(argv[0], "--root is needed, or --source")
    if problem := command_line.beam_without_runner(values, beam_flags):
        return command_line.fail(argv[0], problem)
    return command_line.run(argv[0], lambda: _prepare(values, beam_flags))


def _define(values: flags.FlagValues) -> None:
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string("source", "", "a kind as of `data.source`; default: as --root is", **define)
    flags.DEFINE_string("root", "", "where the images are, as of `data.root`", **define)
    flags.DEFINE_string("split", "", "which part of them, as of `data.split`", **define)
    flags.DEFINE_string("name", "", "tfds: the builder", **define)
    flags.DEFINE_string("out", None, "the folder to write", **define)
    flags.DEFINE_integer("short_side", 256, "in pixels, of larger images; 0 keeps all sizes", 0, **define)
    flags.DEFINE_enum("format", "jpeg", ["jpeg", "raw"], "files, or pixels, which read faster", **define)
    flags.DEFINE_integer("quality", 95, "of JPEG", 1, 100, **define)
    flags.DEFINE_bool("exif_orientation", True, "turn images as their EXIF says", **define)
    flags.DEFINE_integer("shard_size", 4096, "images of a shard", 1, **define)
    flags.DEFINE_enum("on_error", "raise", ["raise", "skip"], "at a bad image", **define)
    command_line.define_runner(values)


def _prepare(values: flags.FlagValues, beam_flags: list[str]) -> None:
    beam = command_line.import_beam() if values.runner else None  # first: it may be missing
    from rfd_tf import data

    fields = ("short_side", "format", "quality", "exif_orientation", "shard_size", "on_error")
    given: dict[str, Any] = {name: values[name].value for name in fields}
    options = data.PrepareOptions(**given)
    if beam and "://" in values.root:
        if values.source or values.split or values.name:
            raise ValueError("an address takes no --source, --split or --name: give the folder or the list")
        source, made_from = beam.open_beam_files(values.root), {"source": "", "root": values.root}
    else:
        source, made_from = _open(values)
    if beam:
        skipped = beam.prepare_on_beam(source, values.out, options, values.runner, beam_flags, made_from)
    else:
        skipped = data.prepare(source, values.out, options, made_from)
    if skipped:
        index, reason = next(iter(skipped.items()))
        print(f"Skipped images: {len(skipped)} (the first is {source.describe(index)}: {reason})")
    print(f"Prepared: {os.path.join(values.out, 'prepared.json')}")


def _open(values: flags.FlagValues) -> tuple[Any, dict[str, str]]:
    """The images, and what is noted of where they come from."""
    from rfd_tf import data

    kind, root, split = values.source, values.root, values.split
    if not kind:
        kind = data.source_kind(Path(root))
        if kind == "image_list":
            root, split = os.path.dirname(root) or ".", split or Path(root).stem
    if kind == "prepared":
        raise ValueError(f"{root} was prepared already: give the images that it was made from")
    options: dict[str, Any] = {"name": values.name} if values.name else {}
    if kind in ("image_folder", "flat_folder", "image_list", "places205"):
        options["on_error"] = values.on_error
    source = data.open_source(kind, root, split or "train", **options)
    place = os.path.abspath(root) if root else ""
    return source, {"source": kind, "root": place, "split": split, "name": values.name}


if __name__ == "__main__":
    sys.exit(main())
