"""`.keras` files, which are ZIP archives, with facts about the model as a member of theirs."""

import zipfile
from pathlib import Path

import keras

from rfd_tf.atomic import atomic_path


def write_keras(model: keras.Model, path: Path, member: str, facts: str) -> None:
    """Writes a model's `.keras` file with `facts` as its member called `member`."""
    with atomic_path(path) as temporary:
        model.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(member, facts)


def read_keras(path: Path) -> keras.Model:
    """The model of a `.keras` file; one that holds code is refused.

    Raises:
        ValueError: if it cannot be read; the message names the file.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: Keras cannot read it ({reason})") from error


def facts_inside(path: Path, member: str) -> bytes | None:
    """What `write_keras` wrote beside the model; None if there is no such member, or no archive."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.read(member) if member in archive.namelist() else None
