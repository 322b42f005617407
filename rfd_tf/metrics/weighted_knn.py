import numpy as np


def weighted_knn_predict(
    reference: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray | None = None,
    k: int = 200,
    temperature: float = 0.07,
) -> np.ndarray:
    """Class of each query by its k nearest references, each voting with `exp(cosine / temperature)`.

    scikit-learn's brute-force search, which works in blocks of bounded memory.

    Args:
        reference: [N, D] features.
        labels: [N] classes.
        queries: [M, D] features; None predicts every reference from the others (leave one out).
        k: neighbours; cut to the references there are.
        temperature: positive.

    Returns:
        [M] (or [N]) predicted classes.

    Raises:
        ValueError: on an argument out of range, mismatched shapes or features that are not finite.

    Reference: Wu et al., CVPR 2018, section 3.4.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if k < 1 or not temperature > 0:
        raise ValueError(f"`k` must be >= 1 and `temperature` > 0. Received: {k=}, {temperature=}")
    available = len(reference) - (queries is None)

    def votes(distances):
        # Relative to the nearest, so that a low temperature cannot overflow.
        return np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)

    classifier = KNeighborsClassifier(
        min(k, available), metric="cosine", algorithm="brute", weights=votes
    ).fit(reference, labels)
    return classifier.predict(queries)
