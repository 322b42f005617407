"""Few examples of each class, drawn from images that may show several."""

import numpy as np


def low_shot_labels(targets: np.ndarray, shots: int, sample: int, seed: int) -> np.ndarray:
    """Each class's own draw: `shots` images that show it, and C - 1 times as many that do not.

    Where fewer do not show it, all of those are taken.

    Args:
        targets: [N, C] of 1, -1 and 0 (never drawn).
        shots: k >= 1, no more than the images that show any one class.
        sample: which of several independent draws.
        seed: not negative, like `sample`.

    Returns:
        int8 [N, C]: those of the images drawn; 0 for all others.

    Reference: Goyal et al., ICCV 2019, and its code.
    """
    drawn = np.zeros_like(targets, "int8")
    num_classes = targets.shape[1]
    for label in range(num_classes):
        # A stream for each class and number of shots, as their draws are independent.
        rng = np.random.default_rng([seed, sample, shots, label])
        positives, negatives = (np.flatnonzero(targets[:, label] == sign) for sign in (1, -1))
        wanted = min((num_classes - 1) * shots, len(negatives))
        drawn[rng.choice(positives, shots, replace=False), label] = 1
        drawn[rng.choice(negatives, wanted, replace=False), label] = -1
    return drawn


def fewest_positives(targets: np.ndarray) -> tuple[int, int]:
    """(the class that the fewest images show, how many do)."""
    counts = (targets == 1).sum(axis=0)
    return int(counts.argmin()), int(counts.min())
