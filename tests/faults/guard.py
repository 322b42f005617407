"""What a reader of foreign bytes must not do, noticed while it reads."""

import contextlib
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

_ACTIONS = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen"),
    *("pickle.find_class", "socket.connect", "socket.getaddrinfo", "ftplib.connect", "urllib.Request"),
    *("ctypes.dlopen", "webbrowser.open"),
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_SILENT = 600.0  # seconds without an answer after which the process ends, with a traceback
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Misdeed(BaseException):
    """Code was run, or something was reached that is not the reader's; no reader's `except` catches it."""


class Hang(BaseException):
    """The reader did not come back in time."""


class Guard:
    """Watches this process for the rest of its life; `armed` while bytes are read.

    Args:
        folder: where reading may write: nowhere else.
        seconds: of processor time for one input.
        memory: bytes of address space beyond what there is now.
    """

    def __init__(self, folder: Path, seconds: float, memory: int):
        self.folder, self.seconds = os.fspath(folder), seconds
        self.misdeed: str | None = None
        self._armed = False
        sys.addaudithook(self._heard)
        faulthandler.enable()
        signal.signal(signal.SIGPROF, self._late)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Raises Misdeed or Hang; a misdeed also if it was caught within."""
        self.misdeed = None
        signal.setitimer(signal.ITIMER_PROF, self.seconds)  # of the processor: the machine may be busy
        faulthandler.dump_traceback_later(_SILENT, exit=True)
        self._armed = True
        try:
            yield
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
        if self.misdeed:
            raise Misdeed(self.misdeed)

    def _heard(self, event: str, arguments: tuple) -> None:
        if not self._armed:
            return
        if event == "ctypes.dlopen" and arguments[0] is None:  # the process itself
            return
        if event in _ACTIONS or self._runs_foreign_code(event, arguments) or self._writes(event, arguments):
            self.misdeed = f"{event} {arguments!r:.200}"
            raise Misdeed(self.misdeed)

    def _runs_foreign_code(self, event: str, arguments: tuple) -> bool:
        """Code that comes from no file. (Classes of the standard library are partly made so, at import.)"""
        if event != "exec" or os.path.exists(arguments[0].co_filename):
            return False
        frame = sys._getframe()
        while frame is not None:
            if "importlib" in frame.f_code.co_filename:
                return False
            frame = frame.f_back
        return True

    def _writes(self, event: str, arguments: tuple) -> bool:
        """Whether it changes something outside the folder."""
        if event not in ("open", *_CHANGES) or not isinstance(arguments[0], str | bytes | os.PathLike):
            return False
        if event == "open" and not arguments[2] & _WRITING:
            return False
        base = f"/proc/self/fd/{arguments[-1]}" if event != "open" and arguments[-1] != -1 else "."
        path = os.path.join(os.path.realpath(base), os.fsdecode(arguments[0]))
        return not path.startswith((self.folder, "/dev/null"))

    def _late(self, *_):
        raise Hang(f"no answer in {self.seconds} s")
