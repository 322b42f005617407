from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf.losses import MultiLabelLoss
from rfd_tf.models import MultiLabelClassifier
from rfd_tf.progress_bar import progress_bar
from rfd_tf.training.assembly import build_optimizer
from rfd_tf.training.inputs_run import InputsRun
from rfd_tf.training.multi_label_inputs import MultiLabelInputs
from rfd_tf.training.sources import IMAGE_ERRORS


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
