"""The protocols of few labels: 1 % or 10 % of the training images."""

import numpy as np


def labelled_fraction(
    labels: np.ndarray | None, valid: np.ndarray, fraction: float, seed: int = 0
) -> np.ndarray:
    """A share of the pictures at `valid`, the same of each class, but at least one picture each.

    With one seed a smaller share is part of a larger one.

    Args:
        labels: int64 [N], of all pictures; None takes the share of all together.
        valid: int64 indices of the pictures to choose from.
        fraction: in (0, 1].
        seed: which pictures, not negative.

    Returns:
        The chosen ones of `valid`, ascending.

    Raises:
        ValueError: if `fraction` or `seed` is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"`label_fraction` must be in (0, 1]. Received: label_fraction={fraction}")
    if seed < 0:
        raise ValueError(f"`label_seed` must not be negative. Received: label_seed={seed}")
    if fraction == 1:
        return np.sort(valid)
    classes = np.zeros(len(valid), "int64") if labels is None else labels[valid]
    chosen = []
    for label in np.unique(classes):
        rows = valid[classes == label]
        # A stream for each class: what one class has does not change the choice in another.
        order = np.random.default_rng([seed, int(label)]).permutation(len(rows))
        chosen.append(rows[order[: max(1, round(fraction * len(rows)))]])
    return np.sort(np.concatenate(chosen))
