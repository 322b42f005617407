"""Files that appear whole or not at all, where they go, and JSON that is checked."""

import abc
import atexit
import contextlib
import functools
import json
import math
import os
import shutil
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO


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


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if missing; OSError if one is in.

    Files that killed processes left half-written are removed.
    """
    import filelock  # takes a while, and `--help` does without

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".lock", timeout=0):
            remove_partial(folder)
            yield
    except filelock.Timeout:
        raise OSError(f"Another process writes to {folder}") from None


def remove_partial(folder: Path, names: Iterable[str] = ("*.*",)) -> None:
    """Remove what killed processes left of files of these names, half-written.

    Nobody may be writing them: a folder's lock sees to that.
    """
    for name in names:
        for path in folder.glob(_temporary_name(name, "*")):
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(_temporary_name(path.name, str(os.getpid())))


def _temporary_name(name: str, process: str) -> str:
    stem, dot, endings = name.partition(".")
    return f".{stem}.{process}.partial{dot}{endings}"


_TEMPORARY_PREFIX = "rfd_tf-"


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Within, this process's temporary files go to a folder of its own, which is removed when it exits.

    TensorFlow keeps the sources that AutoGraph writes, some thirty a training, until the process exits, and
    those of a killed one for good. Here the next process that enters removes what killed ones left. Where no
    folder can be made, temporary files go where they would.
    """
    before = tempfile.tempdir
    with contextlib.suppress(OSError, ImportError):  # a full disk; no `fcntl`
        tempfile.tempdir = _own_temporary_folder(tempfile.gettempdir())
    try:
        yield
    finally:
        tempfile.tempdir = before


@functools.cache
def _own_temporary_folder(parent: str) -> str:
    import fcntl

    for left in Path(parent).glob(f"{_TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's; its process lives; removed meanwhile
            opened = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(opened).st_uid == os.getuid():
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(opened)
    new = tempfile.mkdtemp(prefix=f".{_TEMPORARY_PREFIX}", dir=parent)
    # Locked until the process ends, however it ends; systemd's cleaning of /tmp heeds that, too.
    fcntl.flock(os.open(new, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX)
    folder = os.path.join(parent, os.path.basename(new)[1:])
    os.rename(new, folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Storage(abc.ABC):
    """A folder of files that appear complete or not at all.

    Attributes:
        location: where it is, for messages.
    """

    def __init__(self, location: str):
        self.location = location

    @abc.abstractmethod
    def names(self) -> set[str]:
        """The files there, but for hidden ones; none where there is no such folder."""

    @abc.abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A file to read, from any place in it; FileNotFoundError where there is none."""

    @abc.abstractmethod
    def write(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to write, there under its name when the block ends, and not if the block raises."""

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self.open(name) as file:
            return file.read()

    def write_text(self, name: str, text: str) -> None:
        """A whole file, in UTF-8."""
        with self.write(name) as file:
            file.write(text.encode("utf-8"))


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
        """As `locked_folder`."""
        with locked_folder(self._folder):
            yield


def user_cache() -> Path:
    """`$RFD_TF_CACHE`, else the platform's cache folder of the user. Not created here."""
    if root := os.environ.get("RFD_TF_CACHE"):
        return Path(root).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("rfd_tf", appauthor=False))


def absolute_location(location: str) -> str:
    """A path that means the same wherever a command is repeated; an address, or what is not there, stays."""
    return os.path.abspath(location) if os.path.exists(location) else location


def parse_json(text: str | bytes) -> Any:
    """`json.loads`; whatever is wrong with the text is a ValueError, too deep a nesting as well."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is what a type hint says.

    Args:
        value: of `parse_json`.
        kind: str, bool, int, float (finite; whole numbers are welcome), list, tuple, dict, None, or lists,
            tuples, dicts and unions of these: `dict[str, list[float | None]]`. A list fits a tuple.
    """
    parts, origin = typing.get_args(kind), typing.get_origin(kind) or kind
    if origin is types.UnionType:
        return any(fits(value, part) for part in parts)
    if origin is types.NoneType:
        return value is None
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, parts[0]) for item in value if parts)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, parts[1]) for item in value.values() if parts)
    if origin is float:
        return _is_number(value)
    return isinstance(value, origin) and (origin is bool or not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


_MISSING = object()
# What runs did before these fields were there. Any other field that they lack was off: empty, zero, false.
FORMER_VALUES = {
    "bank": "replicated",
    "bank_dtype": "float32",
    "color_jitter_probability": 1.0,
    "crops": 1,
    "instance_loss": "nce",
    "margins": "rotation",
    "norm_scale_init": "ones",
    "on_collapse": "warn",
    "normalizer_momentum": 1.0,
    "mixup_alpha": 0.2,
    "rand_augment_magnitude": 0.5,
    "rand_augment_ops": 2,
}


def differences(saved: dict, config: dict, prefix: str = "") -> list[str]:
    """Where two nested dicts of JSON values differ, for people; `prefix` comes before each field's name.

    A new field that is off (empty, zero, false), or as it was before it could be set, is not a difference.
    """
    found = []
    for name in sorted({*saved, *config}):
        there, here = saved.get(name, _MISSING), config.get(name, _MISSING)
        if there is _MISSING and (not here or here == FORMER_VALUES.get(name) or name == "kind"):
            continue  # a switch that an earlier version did not have is off; nor did it tell its kind
        if isinstance(there, dict) and isinstance(here, dict):
            found += differences(there, here, f"{prefix}{name}.")
        elif there is _MISSING or here is _MISSING or there != here:
            shown = ["absent" if value is _MISSING else repr(value) for value in (there, here)]
            found.append(f"{prefix}{name}: {shown[0]} there, {shown[1]} now")
    return found
