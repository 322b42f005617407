"""`rfd train`: pretrain a backbone by rotation feature decoupling."""

import sys

from absl import flags

from rfd_tf.commands import command_line, config_flag

USAGE = """rfd train --config=NAME|FILE.py --workdir=DIR [--config.FIELD=VALUE ...]

Pretrains a backbone. Started again with the same arguments, it continues where it was.
Configs that come with the package: {names}. The fields and their defaults are in configs/base.py.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    flag_values = flags.FlagValues()
    config, argv = config_flag.define(flag_values, "train", sys.argv if argv is None else argv)
    workdir = flags.DEFINE_string("workdir", None, "the run's folder", flag_values=flag_values)
    usage = USAGE.format(names=", ".join(config_flag.packaged_configs("train")))
    if (status := command_line.parse(flag_values, argv, usage)) is not None:
        return status
    missing = "--workdir is needed" if workdir.value is None else None
    if problem := config_flag.complaint(flag_values, "train") or missing:
        return command_line.fail(argv[0], problem, command_line.USAGE_ERROR)
    return _train(argv[0], config.value, workdir.value)


def _train(program: str, config, workdir: str) -> int:
    from rfd_tf.callbacks import NonFiniteLossError, TrainingStopped
    from rfd_tf.training.pretrain import pretrain

    def action():
        try:
            backbone = pretrain(config, workdir, lambda model: _initialize(config.init, model))
        except TrainingStopped as stop:
            print(f"{program}: {stop} The same command continues.", file=sys.stderr)
            return 128 + stop.signal_number
        print(f"Trained: {backbone}")
        return 0

    return command_line.run(program, action, (ValueError, OSError, ImportError, NonFiniteLossError))


def _initialize(init: str, backbone) -> None:
    import zoo

    zoo.resolve_init(init, backbone)


if __name__ == "__main__":
    sys.exit(main())
