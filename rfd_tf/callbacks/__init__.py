"""Callbacks for `model.fit`."""

from rfd_tf.callbacks.by_epoch import DeferredReweighting, InstanceWeighting, TemperatureSchedule
from rfd_tf.callbacks.checkpoints import (
    GracefulStop,
    NonFiniteLossError,
    StopOnNonFinite,
    TrainingCheckpoint,
    TrainingStopped,
)
from rfd_tf.callbacks.monitors import (
    CollapseError,
    CollapseMonitor,
    EpochSummary,
    KNNMonitor,
    TrainingSummaries,
    epoch_line,
    signs_of_collapse,
)

__all__ = [
    "CollapseError",
    "CollapseMonitor",
    "DeferredReweighting",
    "EpochSummary",
    "GracefulStop",
    "InstanceWeighting",
    "KNNMonitor",
    "NonFiniteLossError",
    "StopOnNonFinite",
    "TemperatureSchedule",
    "TrainingCheckpoint",
    "TrainingStopped",
    "TrainingSummaries",
    "epoch_line",
    "signs_of_collapse",
]
