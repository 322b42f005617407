"""`rfd train`: pretrain a backbone by rotation feature decoupling."""

import importlib.util
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from rfd_tf.commands import command_line

USAGE = """rfd train --config=NAME|FILE.py --workdir=DIR [--config.FIELD=VALUE ...]

Pretrains a backbone. Started again with the same arguments, it continues where it was.
Configs that come with the package: digits_lt, cifar10_lt, imagenet, imagenet_ldam, image_folder.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = _with_packaged_config(sys.argv if argv is None else argv)
    flag_values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, "config file or name", flag_values=flag_values, sys_argv=argv
    )
    workdir = flags.DEFINE_string("workdir", None, "the run's folder", flag_values=flag_values)
    if (status := command_line.parse(flag_values, argv, USAGE)) is not None:
        return status
    for flag in ("config", "workdir"):
        if flag_values[flag].value is None:
            return command_line.fail(argv[0], f"--{flag} is needed", command_line.USAGE_ERROR)
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


def _with_packaged_config(argv: list[str]) -> list[str]:
    """`--config=NAME` of a config that comes with the package becomes `--config=PATH`."""
    resolved = list(argv)
    for position, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag.lstrip("-") != "config" or not flag.startswith("-"):
            continue
        if equals:
            resolved[position] = f"{flag}={_config_path(value)}"
        elif position + 1 < len(argv):
            resolved[position + 1] = _config_path(argv[position + 1])
    return resolved


def _config_path(name: str) -> str:
    if Path(name).is_file():
        return name
    spec = importlib.util.find_spec("configs")
    packaged = Path(spec.origin).parent / f"{name}.py" if spec and spec.origin else None
    return str(packaged) if packaged is not None and packaged.is_file() else name


if __name__ == "__main__":
    sys.exit(main())
