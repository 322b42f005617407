"""What probes are trained on: the batches of a run, from pictures or from features on disk."""

import abc

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict


class ProbeInputs(abc.ABC):
    """Labelled examples for training and for testing.

    Attributes:
        num_examples: of an epoch.
        test_labels: int64 [M], in the order of `test_batches`.
    """

    num_examples: int
    test_labels: np.ndarray

    @abc.abstractmethod
    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        """Batches of (dict of inputs, labels), distributed, from `start_step` to the end of `epochs`."""

    @abc.abstractmethod
    def validation_batches(self, config: ConfigDict, strategy):
        """One pass over the test examples in the same form, distributed.

        On several replicas the examples beyond the last whole batch are left out.
        """

    @abc.abstractmethod
    def test_batches(self, config: ConfigDict) -> tf.data.Dataset:
        """One pass over all test examples, in order, for this process alone."""

    def check(self, strategy) -> None:  # noqa: B027  most have nothing to compare
        """Raise ValueError where workers have different examples."""

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:  # noqa: B027
        """Raise an error that names the picture (or the failure of a model) that `error` came of."""
