"""`--config` of the commands: a file, or the name of a config that comes with the package."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

# command -> (folder below `configs`, a field that only its configs have)
_KINDS = {
    "train": ("", "init"),
    "evaluate": ("evaluation", "pool_sizes"),
    "detect": ("detection", "proposals"),
    "sweep": ("sweeps", "variants"),
}


def packaged_configs(command: str) -> dict[str, Path]:
    """Name -> file of the configs that come with the package for `command`."""
    # Of a module in it, since in a checkout the package's own file is elsewhere.
    folder = Path(importlib.util.find_spec("rfd_tf.configs.base").origin).parent / _KINDS[command][0]
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py")) if path.stem != "base"}


def define(flag_values: flags.FlagValues, command: str, argv: Sequence[str]):
    """Defines the flag; (its holder, `argv` with names of packaged configs replaced by their files)."""
    argv = _with_packaged_config(argv, command)
    holder = config_flags.DEFINE_config_file(
        "config", None, "config file or name", flag_values=flag_values, sys_argv=argv
    )
    return holder, argv


def complaint(flag_values: flags.FlagValues, command: str) -> str | None:
    """What is wrong with the config that was given, once the flags are parsed; None if nothing is."""
    config = flag_values["config"].value
    if config is None:
        return "--config is needed"
    name = config_flags.get_config_filename(flag_values["config"])
    if not isinstance(config, ConfigDict):
        return f"--config={name} is no readable file, nor one of {', '.join(packaged_configs(command))}"
    if _KINDS[command][1] not in config:
        others = [other for other, (_, field) in _KINDS.items() if field in config]
        return (
            f"--config={name} is "
            + (
                f"a config of `rfd {others[0]}`, not of `rfd {command}`: it has"
                if others
                else f"no config of `rfd {command}`: it has"
            )
            + f" no field {_KINDS[command][1]!r}"
        )
    return None


def _with_packaged_config(argv: Sequence[str], command: str) -> list[str]:
    resolved = list(argv)
    for position, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag.lstrip("-") != "config" or not flag.startswith("-"):
            continue
        if equals:
            resolved[position] = f"{flag}={_config_path(value, command)}"
        elif position + 1 < len(argv):
            resolved[position + 1] = _config_path(argv[position + 1], command)
    return resolved


def _config_path(name: str, command: str) -> str:
    """The file that `name` means; a name of nothing stays, for the flag to complain of.

    Configs of the other commands are found, too, so that the complaint can tell what they are.
    """
    if Path(name).is_file():
        return name
    for kind in (command, *_KINDS):
        if name in (packaged := packaged_configs(kind)):
            return str(packaged[name])
    return name
