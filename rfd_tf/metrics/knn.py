"""Nearest neighbours by cosine, and the weighted kNN classifier."""

import numpy as np

_BLOCK_BYTES = 2**28  # of references, and of queries, in memory at once


def nearest_neighbours(
    reference: np.ndarray, queries: np.ndarray | None, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k references of largest cosine to each query, exactly; memory does not grow with N x D.

    Either may be a memory map, which is read by blocks. scikit-learn searches each block, by Euclidean
    distance between unit vectors, which falls as the cosine rises; its search by cosine would hold all
    distances and a normalised copy of `reference`.

    Args:
        reference: [N, D] features.
        queries: [M, D] features; None takes the references themselves, each among the others (leave one out).
        k: neighbours, at least 1; cut to the references there are.

    Returns:
        Cosines, float32 [M, k], falling, and indices of the references, int64 [M, k]. A zero vector has
        cosine 0 to everything.

    Raises:
        ValueError: on an argument out of range, mismatched shapes or features that are not finite.
    """
    if k < 1:
        raise ValueError(f"`k` must be >= 1. Received: {k=}")
    leave_one_out = queries is None
    queries = reference if queries is None else queries
    if reference.ndim != 2 or queries.ndim != 2 or reference.shape[1] != queries.shape[1]:
        raise ValueError(
            "Reference and queries must be [N, D] and [M, D]. "
            f"Received shapes {reference.shape} and {queries.shape}"
        )
    k = min(k, len(reference) - leave_one_out)
    if k < 1:
        raise ValueError("There is no reference to be a neighbour")
    cosines, indices = _search(reference, queries, k + leave_one_out)
    return _without_themselves(cosines, indices) if leave_one_out else (cosines, indices)


def _search(reference: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    cosines = np.full((len(queries), k), -np.inf, "float32")
    indices = np.zeros((len(queries), k), "int64")
    rows = max(1, _BLOCK_BYTES // (4 * reference.shape[1]))
    for start in range(0, len(reference), rows):
        block = _unit(reference[start : start + rows], "reference", 0)
        search = NearestNeighbors(n_neighbors=min(k, len(block)), algorithm="brute").fit(block)
        for first in range(0, len(queries), rows):
            part = slice(first, first + rows)
            distances, found = search.kneighbors(_unit(queries[part], "queries", 1))
            # The Euclidean distance d of unit vectors: cosine = 1 - d ** 2 / 2.
            candidates = np.hstack([cosines[part], 1 - distances**2 / 2])
            order = np.argsort(-candidates, axis=1, kind="stable")[:, :k]
            cosines[part] = np.take_along_axis(candidates, order, axis=1)
            indices[part] = np.take_along_axis(np.hstack([indices[part], found + start]), order, axis=1)
    return cosines, indices


def _unit(features: np.ndarray, name: str, zeros_axis: int) -> np.ndarray:
    """Unit vectors of two more coordinates; zero vectors point along one of these, apart from all others."""
    features = np.asarray(features, dtype="float32")
    if not np.isfinite(features).all():
        raise ValueError(f"`{name}` holds values that are not finite")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    zero = norms == 0
    count, width = features.shape
    units = np.zeros((count, width + 2), "float32")
    np.divide(features, np.where(zero, 1, norms), out=units[:, :width])
    units[:, width + zeros_axis] = zero[:, 0]
    return units


def _without_themselves(cosines: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without each row's own index, or, where equal vectors crowded it out, without the last neighbour."""
    others = indices != np.arange(len(indices))[:, None]
    others[others.all(axis=1), -1] = False
    shape = (len(indices), indices.shape[1] - 1)
    return cosines[others].reshape(shape), indices[others].reshape(shape)


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
    num_classes = int(labels.max()) + 1
    predicted = np.empty(len(cosines), "int64")
    for start in range(0, len(cosines), _BLOCK):  # all of [M, C] at once may be more than the features
        rows = slice(start, start + _BLOCK)
        votes = weighted_votes(cosines[rows], labels[indices[rows]], num_classes, temperature)
        predicted[rows] = votes.argmax(axis=1)
    return predicted


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
