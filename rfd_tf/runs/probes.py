"""Training probes, whole classifiers and multi-label classifiers."""

from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from rfd_tf.callbacks import DeferredReweighting
from rfd_tf.losses import ClassifierLoss, MultiLabelLoss
from rfd_tf.models import MultiLabelClassifier, ProbedModel
from rfd_tf.runs.build import build_optimizer
from rfd_tf.runs.fit import ResumableRun
from rfd_tf.runs.images import IMAGE_ERRORS
from rfd_tf.runs.inputs import MultiLabelInputs, ProbeInputs
from rfd_tf.runs.workdir import HISTORY_FILE, read_history
from rfd_tf.terminal import progress_bar


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


class MultiLabelRun(InputsRun):
    """Trains a `MultiLabelClassifier`.

    Args:
        config, workdir, strategy, inputs: as of `InputsRun`; `optimizer.bias_rate` is the rate of biases over
            that of weights.
        make_model: (whether to synchronise batch norm) -> the model; called under the strategy's scope.
        rate_factor: of the rate of an unfrozen trunk.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        strategy,
        inputs: MultiLabelInputs,
        make_model: Callable[[bool], MultiLabelClassifier],
        rate_factor: float = 1.0,
    ):
        super().__init__(config, workdir, strategy, inputs, rate_factor)
        self.make_model = make_model

    def build_model(self, synchronized: bool) -> MultiLabelClassifier:
        model = self.make_model(synchronized)
        optimizer = build_optimizer(self.config.optimizer, self.steps_per_epoch)
        model.compile(optimizer, loss=MultiLabelLoss())
        optimizer.build(model.trainable_variables)
        trunk = {id(variable) for variable in model.trunk.trainable_variables}
        for variable in model.trainable_variables:
            factor = self.rate_factor if id(variable) in trunk else 1.0
            if variable.path.endswith("/bias"):
                factor *= self.config.optimizer.bias_rate
            if factor != 1:
                optimizer.scale_rates([variable], factor)
        return model

    def test_scores(self) -> np.ndarray:
        """Logits [M, C] of all test pictures in order, averaged over the crops of each."""
        infer = tf.function(
            lambda images: self.model({"image": images}, training=False), reduce_retracing=True
        )
        found = []
        try:
            with progress_bar("Test pictures", len(self.inputs.test.valid)) as bar:
                for images in self.inputs.test_crops(self.config):
                    pictures, crops = images.shape[:2]
                    logits = infer(tf.reshape(images, [-1, *images.shape[2:]])).numpy()
                    found.append(logits.reshape(pictures, crops, -1).mean(axis=1))
                    bar.update(pictures)
        except IMAGE_ERRORS as error:
            self.name_bad_image(error)
            raise
        return np.concatenate(found)
