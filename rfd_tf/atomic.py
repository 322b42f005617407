"""Files and folders that appear complete or not at all. Missing parent folders are made."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Within, an OSError that tells of no file tells of `path`: of a full disk one learns without a name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path`, with its endings, to write a file at.

    It replaces `path` when the block ends and is removed if the block raises. Only the file's name is settled
    by that; where it must outlast a power failure, flush it to the disk within the block.
    """
    path = Path(path)
    temporary = _temporary(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file to write that replaces `path` when the block ends, and vanishes if the block raises."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file, UTF-8, so that it is there whole or not at all, and on the disk."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder beside `path` to fill, which gets that name when the block ends.

    A folder of that name is replaced, so that there is always a whole one but for the moment between two
    renames; if the block raises, the old one stays as it was.
    """
    path = Path(path)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with this one's number
    temporary.mkdir(parents=True)
    try:
        yield temporary
        old = temporary.with_name(f"{temporary.name}.old")
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    stem, dot, endings = path.name.partition(".")
    return path.with_name(f".{stem}.{os.getpid()}.partial{dot}{endings}")
