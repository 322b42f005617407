from collections.abc import Iterable, Mapping

import keras
import numpy as np

from rfd_tf.metrics.weighted_knn import weighted_knn_predict
from rfd_tf.models.extract_features import extract_features


class KNNMonitor(keras.callbacks.Callback):
    """Weighted kNN accuracy of a backbone's features, leave one out, as `knn_accuracy` in the logs.

    Put it before callbacks that write logs. Where it is not measured, the log holds the last value.

    Args:
        batches: dicts of `image` and `index` of a labelled set, which need not be the training source.
        labels: [N] classes, by index.
        feature_name: feature of the model's backbone, [B, D].
        every_epochs: how often; the first epoch is always measured.
        k: neighbours.
        temperature: of the votes.
    """

    def __init__(
        self,
        batches: Iterable[Mapping],
        labels: np.ndarray,
        feature_name: str,
        every_epochs: int = 1,
        k: int = 200,
        temperature: float = 0.07,
    ):
        super().__init__()
        if every_epochs < 1:
            raise ValueError(f"`every_epochs` must be at least 1. Received: every_epochs={every_epochs}")
        self.batches = batches
        self.labels = np.asarray(labels)
        self.feature_name = feature_name
        self.every_epochs = every_epochs
        self.k = k
        self.temperature = temperature
        self._last = None

    def on_epoch_end(self, epoch, logs=None):
        if self._last is None or (epoch + 1) % self.every_epochs == 0:
            self._last = self.measure()
        if logs is not None:
            logs["knn_accuracy"] = self._last

    def measure(self) -> float:
        """The accuracy now, in [0, 1]."""
        features, index = extract_features(self.model.backbone, self.batches, self.feature_name)
        labels = self.labels[index]
        predicted = weighted_knn_predict(features, labels, None, self.k, self.temperature)
        return float(np.mean(predicted == labels))
