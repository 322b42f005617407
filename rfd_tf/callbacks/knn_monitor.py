from collections.abc import Iterable, Mapping

import keras
import numpy as np

from rfd_tf.metrics.knn import weighted_knn_predict
from rfd_tf.models.backbone import check_feature_names
from rfd_tf.models.feature_model import extract_features


class KNNMonitor(keras.callbacks.Callback):
    """Weighted kNN accuracy of a backbone's features, leave one out, as `knn_accuracy` in the logs.

    Put it before callbacks that write logs. Epochs where it is not measured have NaN.

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
        if every_epochs < 1 or k < 1 or not temperature > 0:
            raise ValueError(
                "`every_epochs` and `k` must be at least 1 and `temperature` positive. "
                f"Received: {every_epochs=}, {k=}, {temperature=}"
            )
        self.batches = batches
        self.labels = np.asarray(labels)
        self.feature_name = feature_name
        self.every_epochs = every_epochs
        self.k = k
        self.temperature = temperature

    def on_train_begin(self, logs=None):
        check_feature_names([self.feature_name], list(self.model.backbone.output))

    def on_epoch_end(self, epoch, logs=None):
        due = epoch == 0 or (epoch + 1) % self.every_epochs == 0
        if logs is not None:
            logs["knn_accuracy"] = self.measure() if due else float("nan")

    def measure(self) -> float:
        """The accuracy now, in [0, 1]."""
        features, index = extract_features(self.model.backbone, self.batches, self.feature_name)
        labels = self.labels[index]
        predicted = weighted_knn_predict(features, labels, None, self.k, self.temperature)
        return float(np.mean(predicted == labels))
