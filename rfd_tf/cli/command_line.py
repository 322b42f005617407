"""What the commands share: flags, `--config`, and errors as one line with an exit status."""

import importlib.util
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from rfd_tf.cli.fields import field_list, field_names, field_notes, nearest_field
from rfd_tf.files import own_temporary_folder
from rfd_tf.terminal import Stopped

USAGE_ERROR = 2


def parse(flag_values: flags.FlagValues, argv: Sequence[str], usage: str, command: str = "") -> int | None:
    """Parse `argv` (program name first) into `flag_values`; an exit status where the command ends here.

    `--help` lists the fields of the config that was given, or of those that `command` takes.
    """
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=flag_values)
    try:
        rest = flag_values(argv)
    # Overrides of fields that are not there, or by values that do not fit, raise the last four of these.
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        return fail(argv[0], _unknown_field(argv) or error)
    if flag_values.help:
        print(f"{usage}\n{flag_values.main_module_help() or flag_values.get_help()}")
        if "config" in flag_values:
            print(_field_help(flag_values["config"], command))
        return 0
    if len(rest) > 1:
        return fail(argv[0], f"unexpected argument {rest[1]!r}")
    return None


def _unknown_field(argv: Sequence[str]) -> str | None:
    """What to say of the first override of a field that the config does not have; None without one."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv[:1])
    given = [at for at, word in enumerate(argv) if word.lstrip("-").partition("=")[0] == "config"]
    try:
        values([*argv[:1], *(word for at in given for word in argv[at : at + 1 + ("=" not in argv[at])])])
        config = holder.value
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError):
        return None
    if not isinstance(config, ConfigDict):
        return None
    names = field_names(config)
    for word in argv[1:]:
        name = word.lstrip("-").partition("=")[0].removeprefix("config.")
        known = name in names or any(field.startswith(f"{name}.") for field in names)
        if word.lstrip("-").startswith("config.") and not known:
            near = nearest_field(config, name)
            text = f"the config has no field {name!r}" + (f"; did you mean {near!r}?" if near else ".")
            chosen = Path(config_flags.get_config_filename(values["config"]))
            shown = chosen.stem if chosen.is_relative_to(configs_folder()) else chosen
            return f"{text} `{argv[0]} --help --config={shown}` lists them all"
    return None


def _field_help(flag: flags.Flag, command: str) -> str:
    """The fields of the chosen config; without one those of the first kind of config that `command` takes."""
    configs = configs_folder()
    config = flag.value
    if isinstance(config, ConfigDict):
        chosen = Path(config_flags.get_config_filename(flag))
        base = [configs / file for file in FIELD_FILES.get(config.get("kind"), ())]
        title = f"Fields of {chosen.stem if chosen.is_relative_to(configs) else chosen}"
        title += ", each with its value and set by the flag shown:"
    elif command in _KINDS and (files := FIELD_FILES[_KINDS[command][0]]):
        base = [configs / file for file in files]
        config, chosen = runpy.run_path(str(base[-1]))["get_config"](), base[-1]
        title = (
            "Fields of a config, each with its default and set by the flag shown; --config=NAME lists NAME's:"
        )
    else:
        return "With --config=NAME this help also lists the config's fields."
    return f"{title}\n\n{field_list(config, field_notes(base, chosen))}"


def split_beam_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before `--`, and those after it, which are for Apache Beam."""
    argv = list(argv)
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def define_runner(flag_values: flags.FlagValues) -> None:
    """`--runner`."""
    runners = "of Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, ..."
    flags.DEFINE_string("runner", "", runners, flag_values=flag_values)


def beam_without_runner(flag_values: flags.FlagValues, beam_flags: Sequence[str]) -> str | None:
    """What to say of flags of Beam without `--runner`; None if all is well."""
    if beam_flags and not flag_values["runner"].value:
        return f"{beam_flags[0]!r} after `--` is for Beam, which needs --runner"
    return None


def import_beam() -> ModuleType:
    """`rfd_tf.beam`; ImportError that says what to install."""
    try:
        from rfd_tf import beam
    except ImportError as error:
        raise ImportError(f"--runner needs Apache Beam: pip install 'rfd_tf[beam]' ({error})") from None
    return beam


def missing(flag_values: flags.FlagValues, *needed: str) -> str | None:
    """What to say of the first of the needed flags that was not given; None if all were."""
    return next((f"--{name} is needed" for name in needed if not flag_values[name].value), None)


def fail(program: str, error: object, status: int = USAGE_ERROR) -> int:
    """Print one clear message to standard error."""
    text = str(error) or type(error).__name__
    print(f"{program}: {text}", file=sys.stderr)
    return status


def run(program: str, action: Callable[[], int | None]) -> int:
    """`action()`'s exit status; an error that explains itself becomes a message without a traceback, and 1.

    Work that a signal stopped says that it can go on; the status is a shell's, 128 + the signal's number.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's news of the machine
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    try:
        with own_temporary_folder():
            return action() or 0
    except Stopped as stop:
        return fail(program, f"{stop} The same command continues.", 128 + stop.signal_number)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        return fail(program, error, 1)
    except KeyboardInterrupt:
        return fail(program, "interrupted", 128 + signal.SIGINT)
    except ArithmeticError as error:
        from rfd_tf.callbacks import CollapseError, NonFiniteLossError  # loads Keras

        if isinstance(error, CollapseError | NonFiniteLossError):
            return fail(program, error, 1)
        raise


# command -> the kinds of configs that it takes, which are the folders below `configs`
_KINDS = {
    "train": ("pretrain", "classify"),
    "rotations": ("pretrain",),
    "evaluate": ("evaluate",),
    "detect": ("detect",),
    "sweep": ("sweep",),
}
# kind -> the files that define its fields, the last one of them with its defaults
FIELD_FILES = {
    "pretrain": ("base.py",),
    "classify": ("base.py", "evaluate/base.py", "classify/classify.py"),
    "evaluate": ("base.py", "evaluate/base.py"),
    "detect": ("detect/base.py",),
    "sweep": (),
}
_COMMANDS = {kind: command for command, kinds in reversed(_KINDS.items()) for kind in kinds}


def configs_folder() -> Path:
    """The folder of the configs that come with the package."""
    # Of a module in it, since in a checkout the package's own file is elsewhere.
    spec = importlib.util.find_spec("rfd_tf.configs.base")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def packaged_configs(*kinds: str) -> dict[str, Path]:
    """Name -> file of the configs of some kinds that come with the package; of all kinds by default."""
    root = configs_folder()
    files = [path for kind in kinds or _COMMANDS for path in sorted((root / kind).glob("[!_]*.py"))]
    return {path.stem: path for path in files if path.stem != "base"}


def config_names(command: str) -> str:
    """The names of the packaged configs that `command` takes, for its help."""
    return ", ".join(packaged_configs(*_KINDS[command]))


def define_config(flag_values: flags.FlagValues, argv: Sequence[str]):
    """Defines `--config`; (its holder, `argv` with names of packaged configs replaced by their files)."""
    argv = _with_packaged_config(argv)
    holder = config_flags.DEFINE_config_file(
        "config", None, "config file or name", flag_values=flag_values, sys_argv=argv
    )
    return holder, argv


def config_problem(flag_values: flags.FlagValues, command: str) -> str | None:
    """What is wrong with the config that was given, once the flags are parsed; None if nothing is."""
    config = flag_values["config"].value
    if config is None:
        return "--config is needed"
    name = config_flags.get_config_filename(flag_values["config"])
    if not isinstance(config, ConfigDict):
        return f"--config={name} is neither a readable file nor one of {config_names(command)}"
    kinds = _KINDS[command]
    kind = config.get("kind")
    if kind in kinds:
        return None
    if kind in _COMMANDS:
        return (
            f"--config={name} is a config of `rfd {_COMMANDS[kind]}`, not of `rfd {command}`: kind={kind!r}"
        )
    return f"--config={name} must have a field `kind`, one of {', '.join(kinds)}. Received: kind={kind!r}"


def _with_packaged_config(argv: Sequence[str]) -> list[str]:
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
    """The file that `name` means; a name of nothing stays, for `config_problem` to tell."""
    return name if Path(name).is_file() else str(packaged_configs().get(name, name))
