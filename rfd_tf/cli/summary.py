"""`rfd summary`: what a finished run has learned, as a table and a picture."""

import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line

USAGE = """rfd summary --workdir=DIR

Compares the features of a finished `rfd train` run with those of an untrained control of the same
architecture, prints a table and writes DIR/summary.png.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = sys.argv if argv is None else argv
    flag_values = flags.FlagValues()
    workdir = flags.DEFINE_string("workdir", None, "the folder of a finished run", flag_values=flag_values)
    if (status := command_line.parse(flag_values, argv, USAGE)) is not None:
        return status
    if workdir.value is None:
        return command_line.fail(argv[0], "--workdir is needed", command_line.USAGE_ERROR)
    return command_line.run(argv[0], lambda: _summarize(Path(workdir.value)), (ValueError, OSError))


def _summarize(workdir: Path) -> None:
    from rfd_tf.evaluation.run_summary import summarize_run
    from rfd_tf.evaluation.summary_figure import draw_summary

    summary = summarize_run(workdir)
    draw_summary(summary, workdir / "summary.png")
    print(_table(summary))
    print(f"\nPicture: {workdir / 'summary.png'}")


def _table(summary) -> str:
    prefix = "val_" if "val_rotation_accuracy" in summary.history else ""
    images = "validation" if prefix else "training"
    lines = [f"{'after ' + str(len(summary.history['epoch'])) + ' epochs':<44}{'accuracy':>9}"]
    for half in ("rotation", "invariant"):
        column = f"{prefix}{'' if half == 'rotation' else 'invariant_'}rotation_accuracy"
        name = f"rotation from the {half} features ({images})"
        lines.append(f"{name:<44}{summary.history[column][-1]:>8.1%}")
    lines.append("")
    lines.append(f"{'classes, frozen features':<24}{'trained':>12}{'control':>12}{'gain':>9}")
    trained, control = summary.accuracies["trained"], summary.accuracies["untrained control"]
    for name in trained:
        gain = 100 * (trained[name] - control[name])
        lines.append(f"{name:<24}{trained[name]:>12.1%}{control[name]:>12.1%}{gain:>+9.1f}")
    if summary.agnostic is not None:
        lines.append(
            f"\nmost rotation-agnostic images: mean probability {summary.agnostic[1][0]:.2f} and below"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
