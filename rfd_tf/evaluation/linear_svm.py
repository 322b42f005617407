"""Linear support vector machines that tell whether one class is in an image.

Reference: Goyal et al., ICCV 2019, "Scaling and Benchmarking Self-Supervised Visual Representation Learning",
    and its code.
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_TINY = 1e-5  # as there, against images whose features are all 0


@dataclasses.dataclass(frozen=True)
class SvmOptions:
    """How machines are trained.

    Args:
        positive_weight: weight of an image that shows the class over one that does not.
        max_iterations: of the solver.
        folds: of the cross-validation that chooses a cost.
        seed: of the solver's order.

    Raises:
        ValueError: on a number out of range.
    """

    positive_weight: float = 2.0
    max_iterations: int = 2000
    folds: int = 3
    seed: int = 0

    def __post_init__(self):
        if not self.positive_weight > 0 or self.max_iterations < 1 or self.folds < 2:
            raise ValueError(
                "`positive_weight` must be positive, `max_iterations` >= 1, `folds` >= 2. "
                f"Received: {self.positive_weight}, {self.max_iterations}, {self.folds}"
            )


@dataclasses.dataclass(frozen=True)
class Machine:
    """What became of one training: scores [M] of the test images, and whether the solver converged."""

    scores: np.ndarray
    converged: bool


def normalized(features: np.ndarray) -> np.ndarray:
    """Features [N, D] as float64 of length 1."""
    features = np.asarray(features, "float64")
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + _TINY)


def compact(training: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] and [M, D] in at most N dimensions, such that every machine stays what it was.

    A machine's weights are a combination of training images, and its penalty does not see a rotation: what
    of a test image is outside their span changes no score.
    """
    if training.shape[1] <= len(training):
        return training, test
    basis, coordinates = np.linalg.qr(training.T)
    return coordinates.T.copy(), test @ basis


@contextlib.contextmanager
def svm_threads() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, in which machines are trained; the solver holds no lock of Python's.

    Scikit-learn's warnings of what did not converge are off meanwhile: `Machine.converged` tells.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield pool


def train_svm(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, cost: float, options: SvmOptions
) -> Machine:
    """Train on features [N, D] with labels 1 or -1 (0: left out); the scores of `test` [M, D]."""
    from sklearn.svm import LinearSVC

    machine = LinearSVC(
        C=cost,
        class_weight={1: options.positive_weight, -1: 1.0},
        intercept_scaling=1.0,
        tol=1e-4,
        dual=True,
        max_iter=options.max_iterations,
        random_state=options.seed,
    )
    counted = labels != 0
    machine.fit(features[counted], labels[counted])
    return Machine(machine.decision_function(test), int(machine.n_iter_) < options.max_iterations)


def cross_validated(
    features: np.ndarray,
    labels: np.ndarray,
    costs: Sequence[float],
    options: SvmOptions,
    pool: ThreadPoolExecutor,
) -> np.ndarray | None:
    """The mean average precision of held-out folds for each of `costs`.

    Folds keep the share of positives, as `sklearn.model_selection.StratifiedKFold`. The precision is
    scikit-learn's, without interpolation.

    Returns:
        [len(costs)]; None where there are fewer positives or negatives than folds.
    """
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedKFold

    counted = labels != 0
    features, labels = features[counted], labels[counted]
    if min((labels == 1).sum(), (labels == -1).sum()) < options.folds:
        return None
    parts = list(StratifiedKFold(options.folds).split(features, labels))

    def precision(work) -> float:
        cost, (learnt, held_out) = work
        found = train_svm(features[learnt], labels[learnt], features[held_out], cost, options)
        return average_precision_score(labels[held_out], found.scores)

    precisions = list(pool.map(precision, [(cost, part) for cost in costs for part in parts]))
    return np.reshape(precisions, (len(costs), options.folds)).mean(axis=1)
