import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rfd_tf.atomic import write_text

_SAVED_EVERY = 10.0  # seconds


@contextlib.contextmanager
def stopwatch(path: Path) -> Iterator[Callable[[], float]]:
    """Wall-clock seconds of all the runs that share the file `path`.

    The file is brought up to date every ten seconds and at the end, so that a killed run counts, too.

    Yields:
        A function that tells the seconds so far.
    """
    before = float(path.read_text(encoding="utf-8")) if path.exists() else 0.0
    start = time.monotonic()
    finished = threading.Event()

    def seconds() -> float:
        return before + time.monotonic() - start

    def save_now_and_then() -> None:
        while not finished.wait(_SAVED_EVERY):
            write_text(path, f"{seconds():.1f}\n")

    saving = threading.Thread(target=save_now_and_then, daemon=True)
    saving.start()
    try:
        yield seconds
    finally:
        finished.set()
        saving.join()
        write_text(path, f"{seconds():.1f}\n")
