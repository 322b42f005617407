"""`rfd report`: one HTML page about a finished run or a model, or a table."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.cli.models import MODEL_HELP, define_preprocessing, given_preprocessing, open_model
from rfd_tf.terminal import shell_join

USAGE = """rfd report --workdir=DIR [--out=FILE.html] [--projector]
       rfd report --workdir=DIR --summary
       rfd report --model=MODEL --images=IMAGES [--validation_images=IMAGES] --out=FILE.html

The first writes one HTML page, which needs nothing else, about a finished `rfd train` run: curves, filters,
predicted rotations, nearest neighbours, confusions, a map of the features, and what DIR/evaluations has.

The second compares the features of a labelled run with those of an untrained control of the same
architecture: it prints a table and draws DIR/summary.png.

The third writes the page about any Keras model and images of your own, as far as it needs no run.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = sys.argv if argv is None else argv
    flag_values = flags.FlagValues()
    define: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_string("workdir", None, "the folder of a finished run", **define)
    flags.DEFINE_string("model", None, f"instead of a run: {MODEL_HELP}", **define)
    flags.DEFINE_string("images", None, "with --model: a folder, a list or an .npz file of images", **define)
    flags.DEFINE_string(
        "validation_images", None, "with --model: more of them, the ones to be shown", **define
    )
    flags.DEFINE_string("out", None, "the page; DIR/report.html by default", **define)
    flags.DEFINE_bool("summary", False, "print a table and draw DIR/summary.png instead", **define)
    flags.DEFINE_bool(
        "projector", False, "also write TensorBoard's projector files, DIR/tensorboard", **define
    )
    flags.DEFINE_integer("max_images", 1000, "images of each source to look at", lower_bound=1, **define)
    flags.DEFINE_bool("control", True, "measure an untrained control, too", **define)
    define_preprocessing(flag_values)
    if (status := command_line.parse(flag_values, argv, USAGE)) is not None:
        return status
    if problem := _problem(flag_values):
        return command_line.fail(argv[0], problem)
    command = shell_join([*argv[0].split(), *argv[1:]])

    if flag_values.summary:
        return command_line.run(argv[0], lambda: _summarize(Path(flag_values.workdir)))
    return command_line.run(argv[0], lambda: _report(flag_values, command))


def _problem(given: flags.FlagValues) -> str | None:
    """What is wrong with the flags; None if nothing is."""
    if given.model is None:
        unfit = [name for name in ("images", "validation_images") if given[name].value]
        unfit += list(given_preprocessing(given))
        if unfit:
            return f"--{unfit[0]} goes with --model"
        return "--workdir is needed, or --model" if given.workdir is None else None
    if given.workdir is not None:
        return "give --workdir or --model, not both"
    if problem := command_line.missing(given, "images", "out"):
        return f"{problem} with --model"
    unfit = [name for name in ("summary", "projector") if given[name].value]
    return f"--{unfit[0]} goes with --workdir" if unfit else None


def _summarize(workdir: Path) -> None:
    from rfd_tf.report.summary import draw_summary, summarize_run, summary_table

    summary = summarize_run(workdir)
    draw_summary(summary, workdir / "summary.png")
    print(summary_table(summary))
    print(f"\nFigure: {workdir / 'summary.png'}")


def _opened(given: flags.FlagValues):
    """What the report is about."""
    if given.model is None:
        return Path(given.workdir)
    from rfd_tf.data import open_images
    from rfd_tf.report.collect import model_alone

    sources = [open_images(place) for place in (given.images, given.validation_images) if place]
    return model_alone(open_model(given.model, [], given=given_preprocessing(given)), *sources)


def _report(given: flags.FlagValues, command: str) -> None:
    out = Path(given.out or Path(given.workdir) / "report.html")
    _check_writable(out)

    import datetime

    from rfd_tf.files import write_text
    from rfd_tf.report.collect import collect_report
    from rfd_tf.report.page import report_page
    from rfd_tf.report.sample import write_projector

    report = collect_report(_opened(given), given.max_images, given.control)
    write_text(out, report_page(report, datetime.datetime.now(datetime.UTC), command))
    print(f"Report: {out}")
    if given.projector:
        if report.sample is None:
            print("No projector files: they need the run's images, and they cannot be read")
        else:
            folder = write_projector(report.sample, Path(given.workdir) / "tensorboard")
            print(f"Projector: tensorboard --logdir={shlex.quote(str(folder.parent))}")
    missing = [sentence for sentences in report.notes.values() for sentence in sentences]
    for sentence in dict.fromkeys(missing):
        print(f"Note: {sentence}")


def _check_writable(out: Path) -> None:
    """What would fail after the work fails before."""
    if out.is_dir():
        raise ValueError(f"--out={out} is a folder: name a file")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"--out={out}: {nearest} cannot be written to")


if __name__ == "__main__":
    sys.exit(main())
