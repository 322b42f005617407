"""What the commands share: parsing flags and turning errors into one line and an exit status."""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import flags, logging

from rfd_tf.terminal import Stopped

USAGE_ERROR = 2


def parse(flag_values: flags.FlagValues, argv: Sequence[str], usage: str) -> int | None:
    """Parse `argv` (program name first) into `flag_values`; an exit status where the command ends here."""
    flags.DEFINE_bool("help", False, "show this help", short_name="h", flag_values=flag_values)
    try:
        rest = flag_values(argv)
    # Overrides of fields that are not there, or by values that do not fit, raise the last four of these.
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        return fail(argv[0], error, USAGE_ERROR)
    if flag_values.help:
        print(f"{usage}\n{flag_values.main_module_help() or flag_values.get_help()}")
        return 0
    if len(rest) > 1:
        return fail(argv[0], f"unexpected argument {rest[1]!r}", USAGE_ERROR)
    return None


def fail(program: str, error: object, status: int) -> int:
    """Print one clear message to standard error."""
    text = str(error) or type(error).__name__
    print(f"{program}: {text}", file=sys.stderr)
    return status


def run(program: str, action: Callable[[], int | None], expected: tuple[type[Exception], ...]) -> int:
    """`action()`'s exit status; an expected error becomes a message, without a traceback, and status 1.

    Work that a signal stopped says that it can go on; the status is a shell's, 128 + the signal's number.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's news of the machine
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    try:
        return action() or 0
    except Stopped as stop:
        return fail(program, f"{stop} The same command continues.", 128 + stop.signal_number)
    except expected as error:
        return fail(program, error, 1)
    except KeyboardInterrupt:
        return fail(program, "interrupted", 128 + signal.SIGINT)
