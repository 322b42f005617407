import numpy as np

from rfd_tf.metrics.nearest_neighbours import nearest_neighbours

_BLOCK = 4096


def weighted_knn_predict(
    reference: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray | None = None,
    k: int = 200,
    temperature: float = 0.07,
) -> np.ndarray:
    """Class of each query by its k nearest references, each voting with `exp(cosine / temperature)`.

    Args:
        reference: [N, D] features.
        labels: [N] classes, not negative.
        queries: [M, D] features; None predicts every reference from the others (leave one out).
        k: neighbours; cut to the references there are.
        temperature: positive.

    Returns:
        [M] (or [N]) predicted classes; the smallest of those with equal votes.

    Raises:
        ValueError: on an argument out of range, mismatched shapes or features that are not finite.

    Reference: Wu et al., CVPR 2018, section 3.4.
    """
    labels = np.asarray(labels)
    _check_temperature(temperature)
    cosines, indices = nearest_neighbours(np.asarray(reference), queries, k)
    return weighted_votes(cosines, labels[indices], int(labels.max()) + 1, temperature).argmax(axis=1)


def weighted_votes(
    cosines: np.ndarray, labels: np.ndarray, num_classes: int, temperature: float = 0.07
) -> np.ndarray:
    """Sum of the votes `exp(cosine / temperature)` for each class, up to a factor for each query.

    Args:
        cosines: [M, k], of each query's neighbours.
        labels: [M, k], their classes in [0, C).
        num_classes: C.
        temperature: positive.

    Returns:
        float32 [M, C]; the nearest neighbour's vote counts 1, so that none overflows.
    """
    _check_temperature(temperature)
    scores = np.empty((len(cosines), num_classes), "float32")
    for start in range(0, len(cosines), _BLOCK):
        rows = slice(start, start + _BLOCK)
        near = cosines[rows].astype("float64")
        votes = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)
        bins = np.arange(len(near))[:, None] * num_classes + labels[rows]
        sums = np.bincount(bins.ravel(), votes.ravel(), minlength=len(near) * num_classes)
        scores[rows] = sums.reshape(len(near), num_classes)
    return scores


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"`temperature` must be > 0. Received: {temperature=}")
