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
    problem = command_line.config_problem(flag_values, "train")
    if problem := problem or command_line.missing(flag_values, "workdir"):
        return command_line.fail(argv[0], problem)
    config.value.callbacks = (*config.value.callbacks, *flag_values.callbacks)
    command = f"rfd train {shell_join(given[1:])}"
    return command_line.run(argv[0], lambda: _train(config.value, flag_values.workdir, command))


def _train(config, workdir: str, command: str) -> None:
    if config.kind == "pretrain":
        from rfd_tf.runs.pretrain import pretrain

        trained = pretrain(config, workdir)
    else:
        from rfd_tf.evaluation.finetune import classify
        from rfd_tf.runs.workdir import BACKBONE_FILE

        print(classify(config, workdir, command))
        trained = Path(workdir) / BACKBONE_FILE
    print(f"Trained: {trained}")


if __name__ == "__main__":
    sys.exit(main())
