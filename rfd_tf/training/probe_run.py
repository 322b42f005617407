"""One training of probes: resumable, under any strategy."""

from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from rfd_tf.callbacks import DeferredReweighting
from rfd_tf.losses import ClassifierLoss
from rfd_tf.models import ProbedModel
from rfd_tf.training.assembly import build_optimizer
from rfd_tf.training.history import read_history
from rfd_tf.training.inputs_run import InputsRun
from rfd_tf.training.probe_inputs import ProbeInputs
from rfd_tf.training.sources import IMAGE_ERRORS
from rfd_tf.training.workdir import HISTORY_FILE


class ProbeRun(InputsRun):
    """Trains a `ProbedModel`.

    Args:
        config, workdir, strategy, inputs: as of `InputsRun`.
        make_model: (whether to synchronise batch norm) -> (the model, the losses by probe); called under the
            strategy's scope.
        rate_factor: of the rate of an unfrozen backbone.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        strategy,
        inputs: ProbeInputs,
        make_model: Callable[[bool], tuple[ProbedModel, Mapping[str, ClassifierLoss]]],
        rate_factor: float = 1.0,
    ):
        super().__init__(config, workdir, strategy, inputs, rate_factor)
        self.make_model = make_model

    def build_model(self, synchronized: bool) -> ProbedModel:
        model, self.losses = self.make_model(synchronized)
        model.compile(build_optimizer(self.config.optimizer, self.steps_per_epoch))
        model.optimizer.build(model.trainable_variables)
        if self.rate_factor != 1:
            model.optimizer.scale_rates(model.backbone.trainable_variables, self.rate_factor)
        return model

    def state_callbacks(self) -> list[keras.callbacks.Callback]:
        return [
            DeferredReweighting(
                self.config.classifier.drw_start_epoch, self.config.classifier.beta, loss.loss
            )
            for loss in self.losses.values()
            if loss.deferred_reweighting
        ]

    def validation_batches(self):
        return self.inputs.validation_batches(self.config, self.strategy)

    def test_scores(self) -> dict[str, np.ndarray]:
        """Logits (or cosines) [M, C] of the model as it is now, by probe, of all test examples in order."""
        infer = tf.function(lambda inputs: self.model(inputs, training=False), reduce_retracing=True)
        found: dict[str, list[np.ndarray]] = {name: [] for name in self._measured()}
        try:
            for inputs, _labels in self.inputs.test_batches(self.config):
                for name, logits in infer(inputs).items():
                    found[name].append(logits.numpy())
        except IMAGE_ERRORS as error:
            self.name_bad_image(error)
            raise
        return {name: np.concatenate(batches) for name, batches in found.items()}

    def best_epochs(self) -> dict[str, dict[str, float]]:
        """By probe: `best_epoch`, counted from 1, and `best_top1` in [0, 1], the highest top-1 of any epoch.

        On the first worker; on several replicas top-1 is that of the whole batches of test examples.
        """
        history = read_history(self.workdir / HISTORY_FILE)
        found = {}
        for name in self._measured():
            accuracies = history[f"val_{name}_top1"]
            best = int(np.nanargmax(accuracies))
            found[name] = {"best_epoch": history["epoch"][best] + 1, "best_top1": float(accuracies[best])}
            logging.info("%s: best after epoch %d, %.4f", name, best + 1, accuracies[best])
        return found

    def _measured(self) -> list[str]:
        """Names of the probes that are tested: not the auxiliary ones."""
        return [name for name in self.model.probes if name not in self.model.auxiliary]
