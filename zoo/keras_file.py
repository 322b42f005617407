"""`.keras` files."""

from pathlib import Path

import keras

import rfd_tf.models  # noqa: F401  registers our layers
from rfd_tf.atomic import atomic_path
from zoo.errors import FormatError


def read_keras(path: str | Path) -> keras.Model:
    """The model of a `.keras` file; code inside it is not run (Keras's safe mode).

    Raises:
        FormatError: if the file is missing or cannot be read.
    """
    if not Path(path).is_file():
        raise FormatError(f"{path}: there is no such file")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FormatError(f"{path}: Keras cannot read it ({reason})") from error


def write_keras(model: keras.Model, path: str | Path) -> None:
    """Save; the file appears under its name only when it is complete."""
    with atomic_path(path) as temporary:
        model.save(temporary)
