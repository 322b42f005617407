"""`rfd evaluate`: measure a model's features by one of the field's protocols."""

import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.cli.models import (
    MODEL_HELP,
    define_heads_from,
    define_precision,
    define_preprocessing,
    given_preprocessing,
    open_model,
)
from rfd_tf.evaluation import PROTOCOLS
from rfd_tf.terminal import shell_join

USAGE = """rfd evaluate --model=MODEL --protocol=PROTOCOL --config=NAME|FILE.py [--workdir=DIR] [--control]
             [--config.FIELD=VALUE ...]

Prints a table and writes DIR/evaluation.json. Started again with the same arguments, it continues where it
was. DIR is MODEL/evaluations/PROTOCOL by default, where MODEL is the folder of a run. With --control it is
not the run that is measured but its untrained control, in MODEL/evaluations/PROTOCOL-control.

Protocols:
{protocols}

Configs that come with the package: {names}. The fields and their defaults are in configs/evaluate/base.py.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = sys.argv if argv is None else argv
    flag_values = flags.FlagValues()
    config, argv = command_line.define_config(flag_values, given)
    flags.DEFINE_string("model", None, MODEL_HELP, flag_values=flag_values)
    define_heads_from(flag_values)
    flags.DEFINE_enum("protocol", None, list(PROTOCOLS), "what to do", flag_values=flag_values)
    flags.DEFINE_string("workdir", None, "the evaluation's folder", flag_values=flag_values)
    flags.DEFINE_bool(
        "control", False, "measure the untrained control of the run instead", flag_values=flag_values
    )
    define_precision(flag_values)
    define_preprocessing(flag_values)
    if (status := command_line.parse(flag_values, argv, _usage(), "evaluate")) is not None:
        return status
    if problem := _problem(flag_values):
        return command_line.fail(argv[0], problem)
    folder = flag_values.workdir or _default_workdir(flag_values)
    if folder is None:
        problem = "--workdir is needed, unless --model is the folder of a run"
        return command_line.fail(argv[0], problem)
    command = f"rfd evaluate {shell_join(given[1:])}"
    return command_line.run(argv[0], lambda: _evaluate(flag_values, config.value, folder, command))


def _evaluate(given: flags.FlagValues, config, workdir: str | Path, command: str) -> None:
    from rfd_tf.evaluation.evaluate import evaluate, open_control
    from rfd_tf.evaluation.results import RESULT_FILE
    from rfd_tf.models.inference import feature_map_names

    def opened():
        maps = feature_map_names(config.features) or None  # None: all it has
        if given.control:
            return open_control(Path(given.model), maps)
        return open_model(
            given.model,
            maps,
            heads_from=given.heads_from,
            given=given_preprocessing(given),
            precision=given.precision,
        )

    print(evaluate(given.protocol, config, workdir, opened, command))
    print(f"\nFigures: {Path(workdir) / RESULT_FILE}")


def _problem(given: flags.FlagValues) -> str | None:
    """What is wrong with the flags; None if nothing is."""
    if problem := command_line.missing(given, "model", "protocol"):
        return problem
    if given.control and given.precision:
        return "--precision is for a model; its control computes in float32"
    if given.control and given.heads_from:
        return "--heads_from goes with --model=zoo:NAME, which has no control"
    return command_line.config_problem(given, "evaluate")


def _default_workdir(given: flags.FlagValues) -> Path | None:
    from rfd_tf.evaluation.results import evaluation_folder

    run = Path(given.model)
    is_run = (run / "backbone.keras").exists() and (run / "config.json").exists()
    return evaluation_folder(run, given.protocol, given.control) if is_run else None


def _usage() -> str:
    width = max(map(len, PROTOCOLS))
    protocols = "\n".join(f"  {name:<{width}}  {text}" for name, text in PROTOCOLS.items())
    return USAGE.format(protocols=protocols, names=command_line.config_names("evaluate"))


if __name__ == "__main__":
    sys.exit(main())
