import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import filelock

from rfd_tf.atomic import atomic_file
from rfd_tf.extraction.storage import Storage


class LocalStorage(Storage):
    """A folder of this machine, which is made if missing.

    Raises:
        OSError: where it cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__(os.fspath(folder))
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> set[str]:
        return {path.name for path in self._folder.iterdir() if not path.name.startswith(".")}

    def open(self, name: str) -> BinaryIO:
        return open(self._folder / name, "rb")

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        with atomic_file(self._folder / name) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out, and removes what killed ones left half-written; OSError if one is in."""
        try:
            with filelock.FileLock(self._folder / ".lock", timeout=0):
                for path in self._folder.glob(".*.partial.*"):
                    path.unlink()
                yield
        except filelock.Timeout:
            raise OSError(f"Another process writes to {self.location}") from None
