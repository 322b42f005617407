"""`rfd evaluate`: measure a model's features by one of the field's protocols."""

import sys
from functools import partial
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.cli.models import (
    MODEL_HELP,
    define_heads_from,
    define_preprocessing,
    given_preprocessing,
    open_control,
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
    define_preprocessing(flag_values)
    if (status := command_line.parse(flag_values, argv, _usage(), "evaluate")) is not None:
        return status
    if problem := _problem(flag_values):
        return command_line.fail(argv[0], problem, command_line.USAGE_ERROR)
    folder = flag_values.workdir or _default_workdir(flag_values)
    if folder is None:
        problem = "--workdir is needed, unless --model is the folder of a run"
        return command_line.fail(argv[0], problem, command_line.USAGE_ERROR)
    command = f"rfd evaluate {shell_join(given[1:])}"
    options = {"heads_from": flag_values.heads_from, "given": given_preprocessing(flag_values)}
    opened = partial(_opened, flag_values.model, config.value, flag_values.control, options)
    return _evaluate(argv[0], opened, flag_values.protocol, config.value, folder, command)


def _opened(model: str, config, control: bool, options: dict):
    """What is to be measured."""
    maps = _feature_maps(config)
    return open_control(model, maps) if control else open_model(model, maps, **options)


def _evaluate(program: str, opened, protocol: str, config, workdir, command: str) -> int:
    from rfd_tf.callbacks import NonFiniteLossError
    from rfd_tf.evaluation.evaluate import evaluate
    from rfd_tf.evaluation.results import RESULT_FILE, text_table

    def action():
        print(text_table(evaluate(protocol, config, workdir, opened, command)))
        print(f"\nFigures: {Path(workdir) / RESULT_FILE}")

    return command_line.run(program, action, (ValueError, OSError, ImportError, NonFiniteLossError))


def _feature_maps(config) -> list[str] | None:
    """The maps that the config names; None for all that the model has."""
    from rfd_tf.models.inference import RESERVED

    return [name for name in config.features if name not in RESERVED] or None


def _problem(given: flags.FlagValues) -> str | None:
    """What is wrong with the flags; None if nothing is."""
    if missing := [name for name in ("model", "protocol") if given[name].value is None]:
        return f"--{missing[0]} is needed"
    if given.control and given.heads_from:
        return "--heads_from goes with --model=zoo:NAME, which has no control"
    return command_line.config_problem(given, "evaluate")


def _default_workdir(given: flags.FlagValues) -> Path | None:
    from rfd_tf.evaluation.results import EVALUATIONS_FOLDER

    run = Path(given.model)
    is_run = (run / "backbone.keras").exists() and (run / "config.json").exists()
    name = f"{given.protocol}-control" if given.control else given.protocol
    return run / EVALUATIONS_FOLDER / name if is_run else None


def _usage() -> str:
    width = max(map(len, PROTOCOLS))
    protocols = "\n".join(f"  {name:<{width}}  {text}" for name, text in PROTOCOLS.items())
    return USAGE.format(protocols=protocols, names=command_line.config_names("evaluate"))


if __name__ == "__main__":
    sys.exit(main())
