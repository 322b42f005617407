"""`rfd train`: pretrain a backbone by rotation feature decoupling, or train a classifier."""

import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.terminal import shell_join

USAGE = """rfd train --config=NAME|FILE.py --workdir=DIR [--config.FIELD=VALUE ...]

Pretrains a backbone without labels; with --config=classify it trains a network and a classifier on labels.
Started again with the same arguments, it continues where it was.
--callbacks=MODULE:FACTORY gives `model.fit` Keras callbacks of yours, such as an experiment tracker's.
Configs that come with the package: {names}.
"""
_CALLBACKS_HELP = (
    "module:factory, or several by commas: each is called with the config and the workdir and returns Keras "
    "callbacks, which watch the training; added to the config's own"
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = sys.argv if argv is None else argv
    flag_values = flags.FlagValues()
    config, argv = command_line.define_config(flag_values, given)
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=flag_values)
    flags.DEFINE_list("callbacks", [], _CALLBACKS_HELP, flag_values=flag_values)
    usage = USAGE.format(names=command_line.config_names("train"))
    if (status := command_line.parse(flag_values, argv, usage, "train")) is not None:
        return status
    missing = "--workdir is needed" if flag_values.workdir is None else None
    if problem := command_line.config_problem(flag_values, "train") or missing:
        return command_line.fail(argv[0], problem, command_line.USAGE_ERROR)
    config.value.callbacks = (*config.value.callbacks, *flag_values.callbacks)
    command = f"rfd train {shell_join(given[1:])}"
    train = _pretrain if config.value.kind == "pretrain" else _classify
    return _run(argv[0], train, config.value, flag_values.workdir, command)


def _pretrain(config, workdir: str, _command: str) -> Path:
    from rfd_tf.runs.pretrain import pretrain

    return pretrain(config, workdir)


def _classify(config, workdir: str, command: str) -> Path:
    from rfd_tf.evaluation.finetune import classify
    from rfd_tf.evaluation.results import text_table
    from rfd_tf.runs.workdir import BACKBONE_FILE

    print(text_table(classify(config, workdir, command)))
    return Path(workdir) / BACKBONE_FILE


def _run(program: str, train, config, workdir: str, command: str) -> int:
    from rfd_tf.callbacks import CollapseError, NonFiniteLossError

    def action():
        print(f"Trained: {train(config, workdir, command)}")

    told = (ValueError, OSError, ImportError, NonFiniteLossError, CollapseError)
    return command_line.run(program, action, told)


if __name__ == "__main__":
    sys.exit(main())
