"""What a command shows and is told at a terminal: progress, command lines, signals to stop."""

import contextlib
import ctypes
import logging
import shlex
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm


def progress_bar(
    description: str,
    total: int,
    items: Iterable | None = None,
    *,
    done: int = 0,
    unit: str = "img",
    **options,
) -> tqdm:
    """A bar on standard error; where that is not a terminal, a line twice a minute.

    Args:
        description: what is going on.
        total: how many units there are.
        items: to be iterated over; by default `update` moves the bar.
        done: units that were done before.
        unit: of the progress.
        **options: of `tqdm`.
    """
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        items,
        desc=description,
        total=total,
        initial=done,
        unit=unit,
        mininterval=interval,
        maxinterval=60,
        **options,
    )


_SPECIAL_IN_DOUBLE_QUOTES = '"$`\\!'


def shell_join(arguments: Sequence[str]) -> str:
    """`shlex.join`, but with double quotes around what holds single ones, where that means the same."""
    return " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    if "'" in argument and not any(character in argument for character in _SPECIAL_IN_DOUBLE_QUOTES):
        return f'"{argument}"'
    return shlex.quote(argument)


# Opened here, since little is safe in a process that was just forked.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class Stopped(Exception):  # noqa: N818 - not an error: the work can be continued
    """Work ended early, on SIGTERM or Ctrl-C, with what was done kept.

    Args:
        signal_number: which of them came.
        done: what is done, in a few words.
    """

    def __init__(self, signal_number: int, done: str):
        self.signal_number = signal_number
        super().__init__(f"Stopped by {signal.Signals(signal_number).name}: {done}.")


class StopSignals:
    """Within its block, SIGTERM and Ctrl-C are noted; a second one ends the process at once.

    Acts in the main thread only, where Python handles signals.

    Attributes:
        received: the signal's number, or None.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.received: int | None = None
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number, _frame):
        self.received = number
        self.__exit__()


def end_with_parent() -> None:
    """In a process that works for another: it shall not outlive that one, whatever ends it; on Linux."""
    if _LIBC:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def only_errors_logged() -> Iterator[None]:
    """Within, only errors are logged: converters report each of their steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
