"""`rfd prepare`: a collection of images once decoded and resized, in shards that every command reads."""

import os
import sys
from typing import Any

from absl import flags

from rfd_tf.cli import command_line

USAGE = """rfd prepare --root=FOLDER|LIST|FILE.npz --out=DIR [--short_side=256] [--format=jpeg|raw] [flags]
rfd prepare --source=KIND [--root=...] [--split=...] [--name=...] --out=DIR [flags]

Decodes every image once, turns it as its EXIF says, resizes it, and writes it into shards, so that training
reads less and decodes less; see docs/scale.md. `--config.data.source=prepared --config.data.root=DIR` reads
them, as do --images=DIR and functions that take a folder. Started again with the same arguments, it continues
where it was.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = sys.argv if argv is None else argv
    values = flags.FlagValues()
    _define(values)
    if (status := command_line.parse(values, argv, USAGE)) is not None:
        return status
    if problem := command_line.missing(values, "out"):
        return command_line.fail(argv[0], problem)
    if not values.source and not values.root:
        return command_line.fail(argv[0], "--root is needed, or --source")
    return command_line.run(argv[0], lambda: _prepare(values))


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


def _prepare(values: flags.FlagValues) -> None:
    from pathlib import Path

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
    fields = ("short_side", "format", "quality", "exif_orientation", "shard_size", "on_error")
    given: dict[str, Any] = {name: values[name].value for name in fields}
    made_from = {"source": kind, "root": os.path.abspath(root) if root else "", "split": split}
    skipped = data.prepare(
        source, values.out, data.PrepareOptions(**given), made_from | {"name": values.name}
    )
    if skipped:
        index, reason = next(iter(skipped.items()))
        print(f"Skipped images: {len(skipped)} (the first is {source.describe(index)}: {reason})")
    print(f"Prepared: {os.path.join(values.out, 'prepared.json')}")


if __name__ == "__main__":
    sys.exit(main())
