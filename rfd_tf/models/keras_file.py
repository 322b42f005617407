"""`.keras` files, which are ZIP archives, with facts about the model as a member of theirs."""

import zipfile
import zlib
from pathlib import Path

import keras

from rfd_tf.atomic import atomic_path

# What Python's reader of archives raises on damaged, encrypted and unknown ones.
_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, OSError, EOFError)
_MOST_RATIO = 100  # of unpacked to packed bytes; Keras does not pack


def write_keras(model: keras.Model, path: Path, member: str, facts: str) -> None:
    """Writes a model's `.keras` file with `facts` as its member called `member`."""
    with atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(member, facts)


def read_keras(path: Path) -> keras.Model:
    """The model of a `.keras` file; one that holds code is refused.

    Files of another kind never reach Keras, which reads older ones (HDF5) by the ending, and by looser rules.

    Raises:
        ValueError: if it cannot be read, or is made to swell in memory; the message names the file.
    """
    check_archive(Path(path))
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: Keras cannot read it ({reason})") from error


def facts_inside(path: Path, member: str) -> bytes | None:
    """What `write_keras` wrote beside the model; None if there is no such member, or no archive.

    Raises:
        ValueError: if the archive is damaged; the message names the file.
    """
    if not zipfile.is_zipfile(path):
        return None
    check_archive(Path(path))
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member) if member in archive.namelist() else None
    except _DAMAGE as error:
        raise ValueError(f"{path}: is a damaged archive ({error})") from error


def check_archive(path: Path) -> None:
    """Refuse what is no archive of plainly stored members, as Keras writes them."""
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: is no .keras archive")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [member.file_size for member in archive.infolist()]
    except _DAMAGE as error:
        raise ValueError(f"{path}: is a damaged archive ({error})") from error
    if sum(sizes) > _MOST_RATIO * path.stat().st_size:
        raise ValueError(f"{path}: announces {sum(sizes)} bytes, far more than it can hold")
