"""Measures of features and predictions."""

from rfd_tf.metrics.nearest_neighbours import nearest_neighbours
from rfd_tf.metrics.weighted_knn import weighted_knn_predict, weighted_votes

__all__ = ["nearest_neighbours", "weighted_knn_predict", "weighted_votes"]
