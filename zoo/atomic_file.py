"""Files that appear under their name only when they are complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its endings; renamed on success, removed on any error."""
    path = Path(path)
    stem, dot, endings = path.name.partition(".")
    temporary = path.with_name(f".{stem}.{os.getpid()}.partial{dot}{endings}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
