"""Two quick checks of frozen features: weighted kNN and logistic regression."""

import dataclasses
import warnings

import numpy as np

from rfd_tf.metrics.weighted_knn import weighted_knn_predict


@dataclasses.dataclass(frozen=True)
class LabelledFeatures:
    """Features [N, D] with their classes [N]."""

    features: np.ndarray
    labels: np.ndarray


def knn_accuracy(
    training: LabelledFeatures, test: LabelledFeatures, k: int = 200, temperature: float = 0.07
) -> float:
    """Share of test images that their k nearest training images classify rightly, in [0, 1]."""
    predicted = weighted_knn_predict(training.features, training.labels, test.features, k, temperature)
    return float(np.mean(predicted == test.labels))


def logistic_regression_accuracy(
    training: LabelledFeatures, test: LabelledFeatures, max_iterations: int = 1000
) -> float:
    """Test accuracy, in [0, 1], of scikit-learn's logistic regression on standardised features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=max_iterations))
    with warnings.catch_warnings():
        # Unfinished after `max_iterations`, it is still the quick check that it is meant to be.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(training.features, training.labels)
    return float(classifier.score(test.features, test.labels))
