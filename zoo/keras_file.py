"""`.keras` files."""

from pathlib import Path

import keras

import rfd_tf.models  # noqa: F401  registers our layers
from rfd_tf.atomic import atomic_path
from rfd_tf.models import keras_file
from zoo.errors import FormatError


def read_keras(path: str | Path) -> keras.Model:
    """The model of a `.keras` file; code inside it is not run (Keras's safe mode).

    Raises:
        FormatError: if the file is missing or cannot be read.
    """
    if not Path(path).is_file():
        raise FormatError(f"{path}: there is no such file")
    try:
        return keras_file.read_keras(Path(path))
    except ValueError as error:
        raise FormatError(str(error)) from error


def write_keras(model: keras.Model, path: str | Path) -> None:
    """Save; the file appears under its name only when it is complete."""
    with atomic_path(path) as temporary:
        model.save(temporary)
