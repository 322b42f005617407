"""What linear SVMs of PASCAL VOC's classes are trained and measured on."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.feature_cache import cached_features
from rfd_tf.evaluation.kept_arrays import kept_arrays
from rfd_tf.evaluation.linear_svm import Machine, SvmOptions, compact, normalized, svm_threads, train_svm
from rfd_tf.evaluation.probing import feature_names
from rfd_tf.layers import AdaptiveMaxPool2D
from rfd_tf.models.probes import default_pool_size
from rfd_tf.training.workdir import CACHE_FOLDER

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
        """`compute()`, from the workdir's cache where it is there of the same pictures and settings."""
        pictures = (self.experiment.training, self.experiment.test)
        key = [
            *(part.source.fingerprint(part.valid) for part in pictures),
            self.experiment.extractor.fingerprint,
            self.experiment.config.voc.to_dict(),
            self.experiment.config.seed,
            list(costs),
        ]
        path = self.experiment.workdir / CACHE_FOLDER / "svm" / self.name / f"{what}.npz"
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

    def kept(pictures, part: str) -> dict[str, np.ndarray]:
        return cached_features(
            experiment.extractor,
            pictures,
            names,
            experiment.workdir / CACHE_FOLDER / f"{part}_vectors",
            experiment.config.batch_size,
            transform=_vectors,
            transform_name="max pooled to 9600 values, flat",
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
