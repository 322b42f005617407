"""The features that classifiers without augmentation are given."""

import numpy as np

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.feature_cache import cached_features
from rfd_tf.training.workdir import CACHE_FOLDER


def vector_features(experiment: Experiment) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Training and test features, name -> [N, D] and [M, D], of the config's `features`, or of `features`.

    Maps are averaged over space. They stay in the workdir's cache.
    """
    names = tuple(experiment.config.features) or ("features",)

    def features_of(pictures, folder):
        return cached_features(
            experiment.extractor,
            pictures,
            names,
            experiment.workdir / CACHE_FOLDER / folder,
            experiment.config.batch_size,
            transform=_mean_over_space,
            transform_name="mean over space",
        )

    return features_of(experiment.training, "training"), features_of(experiment.test, "test")


def _mean_over_space(_name: str, values: np.ndarray) -> np.ndarray:
    return values.mean(axis=(1, 2)) if values.ndim == 4 else values
