"""scikit-learn's logistic regression on frozen features."""

import dataclasses
import warnings

import numpy as np


@dataclasses.dataclass(frozen=True)
class LogisticScores:
    """What a logistic regression says of the test features.

    Attributes:
        scores: [M, C] logarithms of the probabilities; -inf for classes without training features.
        iterations: of the solver.
        converged: whether it finished within the iterations that it was given.
    """

    scores: np.ndarray
    iterations: int
    converged: bool


def logistic_scores(
    training: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    max_iterations: int = 1000,
    c: float = 1.0,
) -> LogisticScores:
    """Fit on standardised training features, in double precision, and apply to the test features.

    Args:
        training: [N, D].
        labels: [N] in [0, C).
        test: [M, D].
        num_classes: C.
        max_iterations: of the solver (L-BFGS), at least 1. Unfinished, it is still the quick check that it is
            meant to be.
        c: inverse strength of the L2 penalty, positive.

    Raises:
        ValueError: on an argument out of range, or labels of one class only.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if max_iterations < 1 or not c > 0:
        raise ValueError(
            f"`max_iterations` must be at least 1 and `c` positive. Received: {max_iterations=}, {c=}"
        )
    if len(np.unique(labels)) < 2:
        raise ValueError(f"A logistic regression needs two classes; all training images are of {labels[0]}")
    solver = LogisticRegression(C=c, max_iter=max_iterations)
    classifier = make_pipeline(StandardScaler(), solver)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(np.asarray(training, "float64"), labels)
    scores = np.full((len(test), num_classes), -np.inf)
    scores[:, solver.classes_] = classifier.predict_log_proba(np.asarray(test, "float64"))
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in raised)
    return LogisticScores(scores, int(np.max(solver.n_iter_)), converged)
