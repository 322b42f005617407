"""Callbacks for `model.fit`."""

from rfd_tf.callbacks.collapse_monitor import CollapseError, CollapseMonitor, signs_of_collapse
from rfd_tf.callbacks.deferred_reweighting import DeferredReweighting
from rfd_tf.callbacks.graceful_stop import GracefulStop, TrainingStopped
from rfd_tf.callbacks.instance_weighting import InstanceWeighting
from rfd_tf.callbacks.knn_monitor import KNNMonitor
from rfd_tf.callbacks.stop_on_non_finite import NonFiniteLossError, StopOnNonFinite
from rfd_tf.callbacks.temperature_schedule import TemperatureSchedule
from rfd_tf.callbacks.training_checkpoint import TrainingCheckpoint
from rfd_tf.callbacks.training_summaries import TrainingSummaries

__all__ = [
    "CollapseError",
    "CollapseMonitor",
    "DeferredReweighting",
    "GracefulStop",
    "InstanceWeighting",
    "KNNMonitor",
    "NonFiniteLossError",
    "StopOnNonFinite",
    "TemperatureSchedule",
    "TrainingCheckpoint",
    "TrainingStopped",
    "TrainingSummaries",
    "signs_of_collapse",
]
