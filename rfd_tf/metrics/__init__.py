"""Measures of features and predictions."""

from rfd_tf.metrics.weighted_knn import weighted_knn_predict

__all__ = ["weighted_knn_predict"]
