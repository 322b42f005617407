"""`rfd sweep`: a table of experiments over seeds."""

import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line

USAGE = """rfd sweep --config=NAME|FILE.py --workdir=DIR [--jobs=1] [--job_memory_gb=8]
          [--config.FIELD=VALUE ...]

Runs every variant of the config with every seed, each in DIR/VARIANT/seed-N, and writes DIR/table.md and
DIR/table.csv (mean and standard deviation, the commands) and DIR/raw.csv. Started again with the same
arguments, it continues where it was. Configs that come with the package: {names}.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    flag_values = flags.FlagValues()
    config, argv = command_line.define_config(flag_values, sys.argv if argv is None else argv)
    flags.DEFINE_string("workdir", None, "the sweep's folder", flag_values=flag_values)
    jobs = flags.DEFINE_integer("jobs", 1, "runs at a time, at most", flag_values=flag_values)
    memory = flags.DEFINE_float(
        "job_memory_gb", 8.0, "GiB that must be free before a run joins others", flag_values=flag_values
    )
    usage = USAGE.format(names=command_line.config_names("sweep"))
    if (status := command_line.parse(flag_values, argv, usage, "sweep")) is not None:
        return status
    problem = command_line.config_problem(flag_values, "sweep")
    if problem := problem or command_line.missing(flag_values, "workdir"):
        return command_line.fail(argv[0], problem)
    folder = Path(flag_values.workdir)
    return command_line.run(argv[0], lambda: _sweep(argv[0], config.value, folder, jobs.value, memory.value))


def _sweep(program: str, config, workdir: Path, jobs: int, job_memory: float) -> int:
    from rfd_tf.runs.sweep import MARKDOWN, SweepStopped, collect, make_plan, run_plan, write_tables
    from rfd_tf.terminal import StopSignals

    cells = make_plan(config, workdir)
    try:
        with StopSignals() as signals:
            failed = run_plan(cells, jobs, job_memory, lambda: signals.received)
    except SweepStopped:
        if collect(cells):
            write_tables(cells, workdir)
        raise
    print(write_tables(cells, workdir))
    print(f"Table: {workdir / MARKDOWN}")
    for cell, log in failed.items():
        print(f"{program}: {cell.variant}, seed {cell.seed} failed, see {log}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
