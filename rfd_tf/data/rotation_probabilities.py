"""`prob.dat`: how likely each rotated view is to be upright."""

import os

import numpy as np

from rfd_tf.files import atomic_file

NUM_ROTATIONS = 4


def load_rotation_probabilities(path: str | os.PathLike, num_images: int) -> np.ndarray:
    """Reads a `prob.dat`: text, one probability per line, four lines per image (rotations 0 to 3).

    Args:
        path: the file.
        num_images: images of the data set; the lines follow its instance index.

    Returns:
        float32 of shape [num_images, 4], in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: on a line that is not a number in [0, 1] (file, line and content are named) or on another
            number of lines (expected and found are named).
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No file of rotation probabilities at {path}")
    with open(path, "rb") as file:
        try:
            values = np.fromiter(map(float, file), dtype="float64")
        except ValueError:
            raise _first_bad_line(path) from None
    if not ((values >= 0) & (values <= 1)).all():
        raise _first_bad_line(path)
    expected = num_images * NUM_ROTATIONS
    if len(values) != expected:
        raise ValueError(
            f"{path}:{min(len(values), expected) + 1}: expected {expected} lines "
            f"({NUM_ROTATIONS} for each of {num_images} images), "
            f"found {len(values)}. The file must belong to this very data set"
        )
    return values.astype("float32").reshape(num_images, NUM_ROTATIONS)


def save_rotation_probabilities(path: str | os.PathLike, probabilities: np.ndarray) -> None:
    """Writes a `prob.dat` that `load_rotation_probabilities` gives back bit by bit; complete or not at all.

    Args:
        path: the file; its folder is made if missing.
        probabilities: [N, 4] in [0, 1], rows in the order of the instance index.

    Raises:
        ValueError: on another shape, or a value that is not in [0, 1].
    """
    probabilities = np.asarray(probabilities, dtype="float32")
    if probabilities.ndim != 2 or probabilities.shape[1] != NUM_ROTATIONS:
        raise ValueError(f"`probabilities` must have shape [N, 4]. Received: {list(probabilities.shape)}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("`probabilities` must lie in [0, 1]")
    with atomic_file(path) as file:
        file.writelines(b"%.9g\n" % value for value in probabilities.ravel().tolist())  # exact for float32


def _first_bad_line(path: str) -> ValueError:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                good = 0 <= float(line) <= 1
            except ValueError:
                good = False
            if not good:
                text = line.strip()[:40].decode("utf-8", errors="replace")
                return ValueError(f"{path}:{number}: expected a probability in [0, 1]. Received: {text!r}")
    return ValueError(f"{path} changed while it was read")
