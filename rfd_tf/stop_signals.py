import ctypes
import signal
import sys
import threading

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
