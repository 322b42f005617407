"""Results of a computation that are found again when it is asked for anew."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rfd_tf.atomic import atomic_file

_KEY = "key"


def kept_arrays(path: Path, key: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `compute` gives, from the file `path` where that holds it already.

    Args:
        path: an `.npz` file; made, or replaced where it is of another key or cannot be read.
        key: all that the result depends on.
        compute: gives arrays by name.
    """
    with contextlib.suppress(OSError, ValueError, KeyError), np.load(path, allow_pickle=False) as archive:
        if str(archive[_KEY]) == key:
            return {name: archive[name] for name in archive.files if name != _KEY}
    found = {name: np.asarray(value) for name, value in compute().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        np.savez(file, **{_KEY: np.array(key)}, **found)
    return found
