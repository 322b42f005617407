"""Where, with what, when, and how long: what stands beside a figure."""

import contextlib
import datetime
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from rfd_tf.files import remove_partial, write_text

PACKAGES = ("rfd_tf", "tensorflow", "keras", "numpy", "scikit-learn", "onnxruntime")


def machine() -> dict[str, str]:
    """Processor, cores that this process may use, memory, accelerators."""
    import tensorflow as tf

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    accelerators = [
        tf.config.experimental.get_device_details(device).get("device_name", device.name)
        for device in tf.config.list_physical_devices()
        if device.device_type != "CPU"
    ]
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "accelerators": ", ".join(accelerators) or "none",
    }


def versions() -> dict[str, str]:
    """Version of Python and of each installed package that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package in sys.modules:
                found[package] = "not installed as a package"
    return found


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def here_and_now() -> dict:
    """`machine`, `versions` and `date`, as results keep them."""
    return {"machine": machine(), "versions": versions(), "date": now()}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


_SAVED_EVERY = 10.0  # seconds


@contextlib.contextmanager
def stopwatch(path: Path) -> Iterator[Callable[[], float]]:
    """Wall-clock seconds of all the runs that share the file `path`.

    The file is brought up to date every ten seconds and at the end, so that a killed run counts, too. What
    one left of it half-written is removed: only one run at a time may use it.

    Yields:
        A function that tells the seconds so far.
    """
    remove_partial(path.parent, (path.name,))
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
