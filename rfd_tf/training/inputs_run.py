from pathlib import Path

import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf.training.probe_inputs import ProbeInputs
from rfd_tf.training.resumable_run import ResumableRun


class InputsRun(ResumableRun):
    """A run on `ProbeInputs`. Subclasses say what is trained.

    Args:
        config: see `configs/evaluation/base.py`.
        workdir: folder of this worker.
        strategy: of `distribution.create_strategy`.
        inputs: what it is trained and tested on.
        rate_factor: of the rate of an unfrozen network, over that of what is new.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path, strategy, inputs: ProbeInputs, rate_factor: float = 1.0
    ):
        super().__init__(config, workdir, strategy, inputs.num_examples)
        self.inputs = inputs
        self.rate_factor = rate_factor
        inputs.check(strategy)

    def training_batches(self, start_step: int, epochs: int):
        return self.inputs.training_batches(self.config, self.strategy, start_step, epochs)

    def name_bad_image(self, error: tf.errors.OpError) -> None:
        self.inputs.name_bad_image(self.config, self.checkpoint.step, error)
