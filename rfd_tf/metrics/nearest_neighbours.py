import numpy as np

_QUERY_BLOCK, _REFERENCE_BLOCK = 2048, 8192  # 64 MiB of cosines


def nearest_neighbours(
    reference: np.ndarray, queries: np.ndarray | None, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k references of largest cosine to each query, exactly, in blocks: memory does not grow with N x M.

    Either may be a memory map, which is read by blocks. (scikit-learn's search by cosine would copy all of
    `reference` to normalise it.)

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
    queries = reference if leave_one_out else queries
    if reference.ndim != 2 or queries.ndim != 2 or reference.shape[1] != queries.shape[1]:
        raise ValueError(
            "Reference and queries must be [N, D] and [M, D]. "
            f"Received shapes {reference.shape} and {queries.shape}"
        )
    k = min(k, len(reference) - leave_one_out)
    if k < 1:
        raise ValueError("There is no reference to be a neighbour")
    cosines = np.empty((len(queries), k), "float32")
    indices = np.empty((len(queries), k), "int64")
    for start in range(0, len(queries), _QUERY_BLOCK):
        rows = slice(start, start + _QUERY_BLOCK)
        own = np.arange(len(queries))[rows] if leave_one_out else None
        cosines[rows], indices[rows] = _neighbours_of(_unit(queries[rows], "queries"), reference, k, own)
    return cosines, indices


def _neighbours_of(queries: np.ndarray, reference: np.ndarray, k: int, own: np.ndarray | None):
    """Of a block of unit queries; `own` are the references that they are themselves."""
    best = np.full((len(queries), k), -np.inf, "float32")
    where = np.zeros((len(queries), k), "int64")
    for start in range(0, len(reference), _REFERENCE_BLOCK):
        block = _unit(reference[start : start + _REFERENCE_BLOCK], "reference")
        cosines = queries @ block.T
        if own is not None:
            inside = np.flatnonzero((own >= start) & (own < start + len(block)))
            cosines[inside, own[inside] - start] = -np.inf
        found = np.broadcast_to(np.arange(start, start + len(block)), cosines.shape)
        best, where = _largest(np.hstack([best, cosines]), np.hstack([where, found]), k)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(where, order, axis=1)


def _largest(values: np.ndarray, indices: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.argpartition(-values, k - 1, axis=1)[:, :k]
    return np.take_along_axis(values, chosen, axis=1), np.take_along_axis(indices, chosen, axis=1)


def _unit(features: np.ndarray, name: str) -> np.ndarray:
    features = np.asarray(features, dtype="float32")
    if not np.isfinite(features).all():
        raise ValueError(f"`{name}` holds values that are not finite")
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)
