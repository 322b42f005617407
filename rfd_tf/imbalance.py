"""Counts, weights and margins of imbalanced classes. Plain NumPy, float64.

References:
    LDAM: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.
    CB: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.
"""

import os
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rfd_tf.files import atomic_file

PROFILES = ("exp", "step")
MARGINS = ("rotation", "group", "image", "none")


def checked_class_counts(class_counts: npt.ArrayLike) -> np.ndarray:
    """`class_counts` as a float64 vector; fractional counts are allowed, non-positive ones are not.

    Raises:
        ValueError: if it is not one-dimensional, is empty, or holds a count that is not positive and finite.
    """
    if isinstance(class_counts, Mapping):
        raise ValueError(
            "`class_counts` must be a sequence, the count of class 0 first. Received a mapping: "
            f"{class_counts!r:.80}"
        )
    counts = np.asarray(class_counts, dtype="float64")
    if counts.ndim != 1 or counts.size == 0:
        raise ValueError(f"`class_counts` must be a non-empty vector. Received shape {counts.shape}")
    bad = np.flatnonzero(~(np.isfinite(counts) & (counts > 0)))
    if bad.size:
        raise ValueError(
            f"`class_counts` must be positive and finite. Received: class {bad[0]} has {counts[bad[0]]:g}"
            + (f" ({bad.size} such classes)" if bad.size > 1 else "")
        )
    return counts


def class_counts_of(labels: npt.ArrayLike, num_classes: int) -> np.ndarray:
    """Examples per class, int64 of shape [num_classes]; labels outside [0, num_classes) raise ValueError."""
    labels = np.asarray(labels)
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise ValueError(f"Labels must be in [0, {num_classes}). Received: {outside[0]}")
    return np.bincount(labels, minlength=num_classes).astype("int64")


def rows_by_class(labels: npt.ArrayLike, num_classes: int) -> list[np.ndarray]:
    """The rows of each class, ascending, in one pass over `labels` [N], each in [0, num_classes)."""
    counts = class_counts_of(labels, num_classes)
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])


def long_tailed_counts(num_classes: int, max_count: int, ratio: float, profile: str = "exp") -> np.ndarray:
    """Examples to keep of each class, int64 of shape [num_classes] (LDAM, section 4).

    Args:
        num_classes: number of classes C, at least 2.
        max_count: examples of the largest class.
        ratio: imbalance ratio, the largest class over the smallest, at least 1.
        profile: `"exp"`: class c keeps `int(max_count * ratio ** (-c / (C - 1)))`; `"step"`: the first half
            of the classes keeps `max_count`, the second half `int(max_count / ratio)`.

    Raises:
        ValueError: on an argument out of range, or where a class would keep no example.
    """
    if num_classes < 2:
        raise ValueError(f"A long tail needs at least 2 classes. Received: num_classes={num_classes}")
    if max_count < 1:
        raise ValueError(f"`max_count` must be at least 1. Received: max_count={max_count}")
    if not ratio >= 1:
        raise ValueError(f"`ratio` must be at least 1. Received: ratio={ratio}")
    if profile not in PROFILES:
        raise ValueError(f"`profile` must be one of {PROFILES}. Received: profile={profile!r}")
    mu = 1.0 / ratio
    if profile == "exp":
        counts = [int(max_count * mu ** (c / (num_classes - 1.0))) for c in range(num_classes)]
    else:
        head = num_classes // 2
        counts = [max_count] * head + [int(max_count * mu)] * (num_classes - head)
    if min(counts) < 1:
        raise ValueError(
            f"ratio={ratio} leaves class {int(np.argmin(counts))} without an example: "
            f"the largest class has only {max_count}"
        )
    return np.asarray(counts, dtype="int64")


def ldam_margins(class_counts: npt.ArrayLike, max_margin: float = 0.5) -> np.ndarray:
    """LDAM margins, float64 of shape [C]: `max_margin` for the rarest class, falling with count ** (1/4).

    `max_margin=0` gives zeros.

    Reference: LDAM, equation 13: m_j proportional to n_j ** (-1/4).
    """
    if not 0 <= max_margin < np.inf:
        raise ValueError(f"`max_margin` must be at least 0 and finite. Received: max_margin={max_margin}")
    raw = checked_class_counts(class_counts) ** -0.25
    return raw * (max_margin / raw.max())


def effective_numbers(class_counts: npt.ArrayLike, beta: float) -> np.ndarray:
    """Effective number of samples (1 - beta**n) / (1 - beta), float64 of shape [C] (CB, equation 2)."""
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must be in [0, 1). Received: beta={beta}")
    counts = checked_class_counts(class_counts)
    if beta == 0:
        return np.ones_like(counts)
    # expm1 keeps precision where beta is close to 1.
    return -np.expm1(counts * np.log(beta)) / (1 - beta)


def class_balanced_weights(class_counts: npt.ArrayLike, beta: float) -> np.ndarray:
    """Weights 1 / effective number, scaled to sum to C; float64 of shape [C] (CB, section 4).

    `beta=0` gives ones.
    """
    weights = 1.0 / effective_numbers(class_counts, beta)
    return weights * (len(weights) / weights.sum())


def shot_groups(class_counts: npt.ArrayLike) -> dict[str, np.ndarray]:
    """Class ids by training images: many (> 100), medium (20 to 100), few (< 20)."""
    counts = np.asarray(class_counts)
    return {
        "many": np.flatnonzero(counts > 100),
        "medium": np.flatnonzero((counts >= 20) & (counts <= 100)),
        "few": np.flatnonzero(counts < 20),
    }


def rotation_instance_weights(rotation_probabilities: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """Weight of each rotated view, float32 of shape [N, 4], from its probability of looking upright.

    The upright view (column 0) weighs 1; view k weighs `1 - p_k ** gamma`: a view that a rotation classifier
    takes for upright belongs to a rotation-ambiguous image, and its rotation label is noise.

    Args:
        rotation_probabilities: [N, 4], each in [0, 1].
        gamma: sharpness, positive.

    Reference: Feng et al., "Self-Supervised Representation Learning by Rotation Feature Decoupling",
        CVPR 2019.
    """
    probabilities = np.asarray(rotation_probabilities, dtype="float64")
    if probabilities.ndim != 2 or probabilities.shape[1] != 4:
        raise ValueError(f"`rotation_probabilities` must have shape [N, 4]. Received {probabilities.shape}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("`rotation_probabilities` must lie in [0, 1]")
    if not gamma > 0:
        raise ValueError(f"`gamma` must be positive. Received: gamma={gamma}")
    weights = 1.0 - probabilities**gamma
    weights[:, 0] = 1.0
    return weights.astype("float32")


def effective_rotation_counts(instance_weights: np.ndarray) -> np.ndarray:
    """Truly rotated examples of each rotation, n_k = sum_i w_ik; float64 of shape [4]."""
    weights = np.asarray(instance_weights, dtype="float64")
    if weights.ndim != 2 or weights.shape[1] != 4:
        raise ValueError(f"`instance_weights` must have shape [N, 4]. Received {weights.shape}")
    return weights.sum(axis=0)


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
    values = probabilities.ravel()
    with atomic_file(path) as file:
        for start in range(0, len(values), 2**16):
            part = values[start : start + 2**16].tolist()
            file.writelines(b"%.9g\n" % value for value in part)  # exact for float32


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


def view_margins(
    instance_weights: np.ndarray, form: str, max_margin: float = 0.5
) -> tuple[float, float] | None:
    """Margins of an ambiguous and of a rotatable view, between which a view's is by its weight.

    A view of weight w, which is how likely its rotation can be told, has the margin that is expected of it,
    `(1 - w) * ambiguous + w * rotatable`. docs/method.md derives the forms.

    Args:
        instance_weights: [N, 4] of `rotation_instance_weights`.
        form: `"group"`, LDAM's margins of two classes of sum(1 - w) and sum(w) views: the rarer group's is
            `max_margin`; or `"image"`, 0 and `max_margin`. `"rotation"` and `"none"` have no such margins.
        max_margin: the larger one, at least 0 and finite.

    Returns:
        The pair, or None.

    Raises:
        ValueError: on another form or, for `"group"`, weights of which none is below 1.
    """
    if form not in MARGINS:
        raise ValueError(f"`form` must be one of {MARGINS}. Received: form={form!r}")
    if form in ("rotation", "none"):
        return None
    if form == "image":
        return 0.0, float(ldam_margins([1], max_margin)[0])
    rotatable = effective_rotation_counts(instance_weights).sum()
    ambiguous = np.size(instance_weights) - rotatable
    if not ambiguous > 0:
        raise ValueError("Margins by group need ambiguous views. Received: `instance_weights` that are all 1")
    first, second = ldam_margins([ambiguous, rotatable], max_margin)
    return float(first), float(second)
