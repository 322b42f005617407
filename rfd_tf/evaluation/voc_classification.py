"""PASCAL VOC 2007 classification: linear SVMs, low-shot; `finetune` trains the networks.

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
from functools import partial

import numpy as np
from absl import logging

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.features import Transform, experiment_features
from rfd_tf.evaluation.finetune import PUBLISHED_VOC, train_multi_label
from rfd_tf.evaluation.probes import feature_names
from rfd_tf.evaluation.results import MultiLabelFigures, average_precisions, figures_of, multi_label_figures
from rfd_tf.files import atomic_file
from rfd_tf.layers import AdaptiveMaxPool2D
from rfd_tf.metrics.voc_average_precision import RULES
from rfd_tf.models.heads import default_pool_size
from rfd_tf.terminal import progress_bar

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

    Scikit-learn's warnings of what did not converge are off meanwhile: `train_svm` tells.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(), ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield pool


def train_svm(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, cost: float, options: SvmOptions
) -> tuple[np.ndarray, bool]:
    """Train on features [N, D] with labels 1 or -1 (0: left out).

    Returns:
        Scores [M] of `test` [M, D], and whether the solver converged.
    """
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
    return machine.decision_function(test), int(machine.n_iter_) < options.max_iterations


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
        scores, _ = train_svm(features[learnt], labels[learnt], features[held_out], cost, options)
        return average_precision_score(labels[held_out], scores)

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

    def machines(self, labels: np.ndarray, costs: Sequence[float]) -> Iterator[tuple[np.ndarray, bool]]:
        """`train_svm` of labels [N, K], each column at its cost."""
        return self.pool.map(
            lambda column, cost: train_svm(self.training, column, self.test, cost, self.options),
            labels.T,
            costs,
        )

    def kept(self, what: str, costs: Sequence[float], compute: Callable[[], dict]) -> dict[str, np.ndarray]:
        """`compute()`, from the workdir's cache where it is there of the same images and settings."""
        images = (self.experiment.training, self.experiment.test)
        parts = [
            *(part.source.fingerprint(part.valid) for part in images),
            self.experiment.feature_model.fingerprint,
            self.experiment.config.voc.to_dict(),
            self.experiment.config.seed,
            list(costs),
        ]
        key = json.dumps(parts, sort_keys=True)
        path = self.experiment.run.cache / "svm" / self.name / f"{what}.npz"
        with contextlib.suppress(OSError, ValueError, KeyError), np.load(path, allow_pickle=False) as archive:
            if str(archive["key"]) == key:
                return {name: archive[name] for name in archive.files if name != "key"}
        found = {name: np.asarray(value) for name, value in compute().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez(file, key=np.array(key), **found)  # type: ignore[arg-type]  # NumPy's own flag
        return found


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
    names = feature_names(experiment, PUBLISHED_VOC, last_only=True)
    pooled = Transform("max pooled to 9600 values, flat", _vectors)
    training, test = experiment_features(experiment, names, "_vectors", pooled)
    for name in names:
        yield name, *compact(normalized(training[name]), normalized(test[name]))


def _vectors(_name: str, values: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C], max-pooled to no more than some 9600 values, as vectors."""
    if values.ndim == 4:
        size = default_pool_size(values.shape[-1], min(values.shape[1:3]))
        if size < max(values.shape[1:3]):
            values = np.asarray(AdaptiveMaxPool2D(size)(values))
    return values.reshape(len(values), -1)


def run_svm(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """Feature -> figures; `extra` has the least and largest cost chosen, and machines not converged.

    A class with fewer positives than folds takes the cost that is best for the mean of the others.

    Raises:
        ValueError: on `voc` options out of range, or a class that no training image shows.
    """
    label, fewest = fewest_positives(experiment.training.targets)
    if not fewest:
        raise ValueError(f"No training image shows a {experiment.class_names[label]}: no SVM can learn it")
    with svm_tasks(experiment) as tasks:
        return {task.name: _figures(task) for task in tasks}


def _figures(task: SvmTask) -> MultiLabelFigures:
    costs = _chosen_costs(task)
    targets = task.experiment.training.targets

    def compute():
        machines = task.machines(targets, costs)
        progress = progress_bar(f"SVMs, {task.name}", len(costs), machines, unit="class")
        scores, converged = zip(*progress, strict=True)
        return {"scores": scores, "converged": converged}

    machines = task.kept("machines", costs.tolist(), compute)
    extra = {
        "least_cost": float(costs.min()),
        "largest_cost": float(costs.max()),
        "unconverged": int((~machines["converged"]).sum()),
    }
    return multi_label_figures(task.experiment.test.targets, machines["scores"].T, extra)


def _chosen_costs(task: SvmTask) -> np.ndarray:
    """[C], by cross-validation where there are several; of equal ones the least."""
    classes = task.experiment.class_names
    if len(task.costs) == 1:
        return np.full(len(classes), task.costs[0])
    progress = progress_bar(f"Costs of SVMs, {task.name}", len(classes), range(len(classes)), unit="class")
    precisions = np.array([_precisions(task, label) for label in progress])
    unknown = np.isnan(precisions).any(axis=1)
    if unknown.all():
        raise ValueError(
            f"No class has {task.options.folds} training images that show it, to choose a cost by: give "
            f"one `voc.costs`. Received: {task.costs}"
        )
    if unknown.any():
        few = ", ".join(classes[label] for label in np.flatnonzero(unknown))
        logging.warning("%s: fewer positives than folds, the others' cost: %s", task.name, few)
        precisions[unknown] = precisions[~unknown].mean(axis=0)
    return np.array(task.costs)[precisions.argmax(axis=1)]


def _precisions(task: SvmTask, label: int) -> np.ndarray:
    """Of the costs, by cross-validation on one class; NaN where that is not possible."""
    labels = task.experiment.training.targets[:, label]

    def compute():
        found = cross_validated(task.training, labels, task.costs, task.options, task.pool)
        return {"precisions": np.full(len(task.costs), np.nan) if found is None else found}

    name = task.experiment.class_names[label]
    return task.kept(f"costs-{name}", task.costs, compute)["precisions"]


def run_low_shot(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """`FEATURE, k=K` -> means over `voc.samples` draws, with the deviation of each mAP in `extra`.

    The cost is `voc.low_shot_cost`; of `voc.costs`, the one that is best on the test images and what it
    gives are in `extra`, for comparison with published figures, which are chosen so.

    A k that is more than the training images of some class is left out, with a warning.

    Raises:
        ValueError: on `voc` options out of range, or if every k is left out.
    """
    settings = experiment.config.voc
    if not settings.low_shot_cost > 0 or settings.samples < 1:
        raise ValueError(
            "`voc.low_shot_cost` must be positive, `voc.samples` at least 1. "
            f"Received: {settings.low_shot_cost}, {settings.samples}"
        )
    draws = [(k, sample) for k in _possible_shots(experiment) for sample in range(settings.samples)]
    figures = {}
    with svm_tasks(experiment) as tasks:
        for task in tasks:
            costs = (settings.low_shot_cost, *(cost for cost in task.costs if cost != settings.low_shot_cost))
            found: dict[int, list[np.ndarray]] = {}
            for k, sample in progress_bar(f"Low-shot SVMs, {task.name}", len(draws), draws, unit="draw"):
                found.setdefault(k, []).append(_draw(task, k, sample, costs))
            for k, precisions in found.items():
                figures[f"{task.name}, k={k}"] = _mean_figures(np.array(precisions), costs)
    return figures


def _possible_shots(experiment: Experiment) -> list[int]:
    wanted = tuple(experiment.config.voc.shots)
    label, fewest = fewest_positives(experiment.training.targets)
    name = experiment.class_names[label]
    possible = [k for k in wanted if 1 <= k <= fewest]
    if not possible or min(wanted) < 1:
        raise ValueError(
            f"`voc.shots` must be from 1 to {fewest}, as many training images show a {name}. "
            f"Received: {wanted}"
        )
    if left_out := [str(k) for k in wanted if k > fewest]:
        logging.warning("k=%s is left out: %d training images show a %s", ", ".join(left_out), fewest, name)
    return possible


def _draw(task: SvmTask, shots: int, sample: int, costs: Sequence[float]) -> np.ndarray:
    """Average precisions [costs, rules, C] of one draw."""
    experiment = task.experiment

    def compute():
        labels = low_shot_labels(experiment.training.targets, shots, sample, task.options.seed)
        columns, every_cost = np.tile(labels, len(costs)), np.repeat(costs, labels.shape[1])
        scores = np.array([found for found, _ in task.machines(columns, every_cost)])
        by_cost = scores.reshape(len(costs), labels.shape[1], -1)
        return {"precisions": [average_precisions(experiment.test.targets, found.T) for found in by_cost]}

    return task.kept(f"{shots}-shot-{sample}", costs, compute)["precisions"]


def _mean_figures(precisions: np.ndarray, costs: Sequence[float]) -> MultiLabelFigures:
    """Of average precisions [samples, costs, rules, C]; the first cost is the one that counts."""
    maps = np.nanmean(precisions, axis=3)
    best = int(maps[:, :, RULES.index("area")].mean(axis=0).argmax())
    extra: dict[str, float] = {"samples": len(precisions)}
    for number, rule in enumerate(RULES):
        extra[f"{rule}_map_std"] = float(maps[:, 0, number].std())
    for number, rule in enumerate(RULES):
        extra[f"best_{rule}_map"] = float(maps[:, best, number].mean())
    return figures_of(precisions[:, 0].mean(axis=0), extra | {"best_cost": float(costs[best])})


METHODS: dict[str, Callable[[Experiment], dict[str, MultiLabelFigures]]] = {
    "fc6-8": partial(train_multi_label, frozen=True),
    "finetune": partial(train_multi_label, frozen=False),
    "svm": run_svm,
    "low_shot_svm": run_low_shot,
}


def run_voc_classification(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """The figures of `voc.method`, by feature, and number of shots or crops.

    Raises:
        ValueError: on another method, and what the methods have to say.
    """
    method = experiment.config.get("voc", {}).get("method")
    if method not in METHODS:
        raise ValueError(
            f"`voc.method` must be one of {', '.join(METHODS)}: take --config=voc_classification. "
            f"Received: {method!r}"
        )
    return METHODS[method](experiment)
