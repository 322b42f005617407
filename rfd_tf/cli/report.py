"""`rfd report`: one HTML page about a finished run."""

import os
import shlex
import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.terminal import shell_join

USAGE = """rfd report --workdir=DIR [--out=FILE.html] [--projector]

Writes one HTML page, which needs nothing else, about a finished `rfd train` run: curves, filters, predicted
rotations, nearest neighbours, confusions, a map of the features, and the figures of DIR/evaluations.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = sys.argv if argv is None else argv
    flag_values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "the folder of a finished run", flag_values=flag_values)
    flags.DEFINE_string("out", None, "the page; DIR/report.html by default", flag_values=flag_values)
    flags.DEFINE_bool(
        "projector",
        False,
        "also write TensorBoard's projector files, DIR/tensorboard",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "max_images", 1000, "pictures of each source to look at", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_bool("control", True, "measure an untrained control, too", flag_values=flag_values)
    if (status := command_line.parse(flag_values, argv, USAGE)) is not None:
        return status
    if flag_values.workdir is None:
        return command_line.fail(argv[0], "--workdir is needed", command_line.USAGE_ERROR)
    command = shell_join([*argv[0].split(), *argv[1:]])
    return command_line.run(
        argv[0], lambda: _report(flag_values, command), (ValueError, OSError, ImportError)
    )


def _report(flag_values: flags.FlagValues, command: str) -> None:
    workdir = Path(flag_values.workdir)
    out = Path(flag_values.out) if flag_values.out else workdir / "report.html"
    _check_writable(out)

    import datetime

    from rfd_tf.files import write_text
    from rfd_tf.report.collect_report import collect_report
    from rfd_tf.report.projector import write_projector
    from rfd_tf.report.report_page import report_page

    report = collect_report(workdir, flag_values.max_images, flag_values.control)
    write_text(out, report_page(report, datetime.datetime.now(datetime.UTC), command))
    print(f"Report: {out}")
    if flag_values.projector:
        if report.sample is None:
            print("No projector files: they need the run's pictures, and they cannot be read")
        else:
            folder = write_projector(report.sample, workdir / "tensorboard")
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
