"""Keras models in files, and copies of them."""

import contextlib
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from rfd_tf.files import atomic_path
from rfd_tf.keras_internals import all_layers

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
    """Refuse what is not an archive of plainly stored members, as Keras writes them."""
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: is not a .keras archive")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [member.file_size for member in archive.infolist()]
    except _DAMAGE as error:
        raise ValueError(f"{path}: is a damaged archive ({error})") from error
    if sum(sizes) > _MOST_RATIO * path.stat().st_size:
        raise ValueError(f"{path}: announces {sum(sizes)} bytes, far more than it can hold")


def network_copy(
    model: keras.Model,
    names: Sequence[str],
    synchronized: bool = False,
    dtype: str | Callable[[keras.Operation], str | None] | None = None,
) -> keras.Model:
    """A functional model's outputs `names`, with layers and weights of its own.

    Under a strategy's scope its variables belong to that strategy. What other outputs need is left out.

    Args:
        model: functional, with a dict of outputs.
        names: those wanted.
        synchronized: whether batch norm takes its statistics over all replicas, within models and layers too.
        dtype: the policy of the copy's layers, or a function that tells it for each layer or operation; None
            for that of each.
    """

    def copy(layer):
        config = layer.get_config()
        chosen = dtype(layer) if callable(dtype) else dtype
        if chosen is not None and "dtype" in config:
            config["dtype"] = chosen
        return layer.__class__.from_config(config)

    part = keras.Model(model.inputs[0], {name: model.output[name] for name in names}, name=model.name)
    again = keras.models.clone_model(part, clone_function=copy, recursive=True)
    if synchronized:
        for layer in all_layers(again):  # a layer of the user's need not pass it on to those within it
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    again.set_weights(part.get_weights())
    return again


def digest_weights(digest, model: keras.Model) -> None:
    """Update a digest of `hashlib` with the weights: dtype, shape and values of each."""
    for value in model.get_weights():
        digest.update(f"{value.dtype} {value.shape}\n".encode() + np.ascontiguousarray(value).tobytes())


@contextlib.contextmanager
def blank_start() -> Iterator[None]:
    """Within, this thread's `RandomUniform` initial weights are zeros.

    AlexNet's random start costs half a gigabyte that TensorFlow's allocator keeps, and seconds.
    """
    thread = threading.get_ident()
    draw = keras.initializers.RandomUniform.__call__

    def zeros(self, shape, dtype=None, **kwargs):
        if threading.get_ident() != thread:
            return draw(self, shape, dtype, **kwargs)
        return keras.ops.zeros(shape, dtype)

    keras.initializers.RandomUniform.__call__ = zeros
    try:
        yield
    finally:
        keras.initializers.RandomUniform.__call__ = draw
