"""Measures of features and predictions."""

from rfd_tf.metrics.knn import nearest_neighbours, weighted_knn_predict, weighted_votes
from rfd_tf.metrics.voc_average_precision import (
    PrecisionRecall,
    detection_precision_recall,
    image_precision_recall,
    inclusive_iou,
)

__all__ = [
    "PrecisionRecall",
    "detection_precision_recall",
    "image_precision_recall",
    "inclusive_iou",
    "nearest_neighbours",
    "weighted_knn_predict",
    "weighted_votes",
]
