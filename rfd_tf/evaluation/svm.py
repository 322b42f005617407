"""Linear support vector machines that tell whether one class is in an image.

Reference: Goyal et al., ICCV 2019, "Scaling and Benchmarking Self-Supervised Visual Representation Learning",
    and its code.
"""

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.features import Transform, cached_features, kept_arrays
from rfd_tf.evaluation.probes import feature_names
from rfd_tf.layers import AdaptiveMaxPool2D
from rfd_tf.models.heads import default_pool_size

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


PUBLISHED = ("pool5",)


@dataclasses.dataclass(frozen=True)
class SvmTask:
    """One feature of an experiment.

    Attributes:
        experiment: with targets.
        name: of the feature.
        training, test: [N, D] and [M, D], rows of length 1, in the fewest dimensions.
        options: of the machines.
        costs: to choose from, rising.
        pool: where machines are trained.
    """

    experiment: Experiment
    name: str
    training: np.ndarray
    test: np.ndarray
    options: SvmOptions
    costs: tuple[float, ...]
    pool: ThreadPoolExecutor

    def machines(self, labels: np.ndarray, costs: Sequence[float]) -> Iterator[Machine]:
        """Machines of labels [N, K], each column at its cost."""
        return self.pool.map(
            lambda column, cost: train_svm(self.training, column, self.test, cost, self.options),
            labels.T,
            costs,
        )

    def kept(self, what: str, costs: Sequence[float], compute: Callable[[], dict]) -> dict[str, np.ndarray]:
        """`compute()`, from the workdir's cache where it is there of the same images and settings."""
        images = (self.experiment.training, self.experiment.test)
        key = [
            *(part.source.fingerprint(part.valid) for part in images),
            self.experiment.feature_model.fingerprint,
            self.experiment.config.voc.to_dict(),
            self.experiment.config.seed,
            list(costs),
        ]
        path = self.experiment.run.cache / "svm" / self.name / f"{what}.npz"
        return kept_arrays(path, json.dumps(key, sort_keys=True), compute)


@contextlib.contextmanager
def svm_tasks(experiment: Experiment) -> Iterator[Iterator[SvmTask]]:
    """A task for each of the config's `features`, `pool5` or the last map by default.

    Raises:
        ValueError: on `voc` options out of range, or an unknown feature.
    """
    settings = experiment.config.voc
    costs = tuple(sorted(float(cost) for cost in settings.costs))
    if not costs or not costs[0] > 0:
        raise ValueError(f"`voc.costs` must be one or more positive numbers. Received: {costs}")
    options = SvmOptions(
        settings.positive_weight, settings.max_iterations, settings.folds, experiment.config.seed
    )
    with svm_threads() as pool:
        yield (SvmTask(experiment, *found, options, costs, pool) for found in _features(experiment))


def _features(experiment: Experiment) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    names = feature_names(experiment, PUBLISHED, last_only=True)

    def kept(images, part: str) -> dict[str, np.ndarray]:
        return cached_features(
            experiment.feature_model,
            images,
            names,
            experiment.run.cache / f"{part}_vectors",
            experiment.config.batch_size,
            transform=Transform("max pooled to 9600 values, flat", _vectors),
        )

    training, test = kept(experiment.training, "training"), kept(experiment.test, "test")
    for name in names:
        yield name, *compact(normalized(training[name]), normalized(test[name]))


def _vectors(_name: str, values: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C], max-pooled to no more than some 9600 values, as vectors."""
    if values.ndim == 4:
        size = default_pool_size(values.shape[-1], min(values.shape[1:3]))
        if size < max(values.shape[1:3]):
            values = np.asarray(AdaptiveMaxPool2D(size)(values))
    return values.reshape(len(values), -1)
