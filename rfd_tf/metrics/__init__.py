"""Measures of features and predictions."""

from rfd_tf.metrics.nearest_neighbours import nearest_neighbours
from rfd_tf.metrics.voc_average_precision import (
    PrecisionRecall,
    detection_precision_recall,
    image_precision_recall,
    inclusive_iou,
)
from rfd_tf.metrics.weighted_knn import weighted_knn_predict, weighted_votes

__all__ = [
    "PrecisionRecall",
    "detection_precision_recall",
    "image_precision_recall",
    "inclusive_iou",
    "nearest_neighbours",
    "weighted_knn_predict",
    "weighted_votes",
]
