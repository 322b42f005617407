import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import distribution
from rfd_tf.data import Preprocessing
from rfd_tf.detection.assembly import Fold, build_detector, build_optimizer
from rfd_tf.detection.inputs import detection_batches
from rfd_tf.detection.regions import Regions, delta_statistics
from rfd_tf.models import FastRCNN
from rfd_tf.training.resumable_run import ResumableRun
from rfd_tf.training.sources import Pictures, check_same_on_all_workers, name_bad_image


def check_detector_values(config: ConfigDict) -> None:
    """Raise ValueError where the steps are out of range."""
    if config.log_steps < 1 or config.steps < 1 or config.steps % config.log_steps:
        raise ValueError(
            "`steps` must be a positive multiple of `log_steps`. "
            f"Received: steps={config.steps}, log_steps={config.log_steps}"
        )


class DetectorRun(ResumableRun):
    """Trains a `FastRCNN`. What `fit` calls an epoch is `config.log_steps` steps here.

    Args:
        config: see `configs/detection/base.py`.
        workdir: folder of this worker.
        strategy: of `distribution.create_strategy`.
        source: the training pictures, with `annotations`.
        regions: of each of them.
        network: pretrained, see `build_detector`.
        preprocessing: of the network's images.
        fold: as of `build_detector`.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        strategy,
        source,
        regions: list[Regions],
        network: keras.Model,
        preprocessing: Preprocessing,
        fold: Fold | None,
    ):
        check_detector_values(config)
        in_epochs = ConfigDict({**config, "epochs": config.steps // config.log_steps})
        super().__init__(in_epochs, workdir, strategy, config.log_steps * config.batch_size)
        self.pictures = Pictures(source, preprocessing, np.arange(len(source)), [])
        self.regions = regions
        self.network = network
        self.fold = fold
        check_same_on_all_workers(self.pictures, strategy)

    def build_model(self, synchronized: bool) -> FastRCNN:
        num_classes = len(self.pictures.source.class_names)
        model = build_detector(self.config, self.network, num_classes, self.fold)
        model.set_delta_statistics(*delta_statistics(self.regions, num_classes))
        # Pictures differ in size, and XLA would compile anew for each.
        model.compile(build_optimizer(self.config, model), jit_compile=False)
        return model

    def training_batches(self, start_step: int, epochs: int):
        config, source = self.config, self.pictures.source
        passes = math.ceil(config.steps / max(1, len(source) // config.batch_size))

        def make(num_workers, worker_index, replicas_per_worker):
            return detection_batches(
                source,
                self.regions,
                self.pictures.preprocessing,
                seed=config.seed,
                epochs=passes,
                start_step=start_step,
                batch_size=config.batch_size,
                num_regions=config.regions.count,
                foreground_share=config.regions.foreground_share,
                scales=tuple(config.scales),
                longest=config.longest,
                num_workers=num_workers,
                worker_index=worker_index,
                replicas_per_worker=replicas_per_worker,
            )

        return distribution.distribute_dataset(self.strategy, make)

    def measuring_callbacks(self) -> list[keras.callbacks.Callback]:
        if not self.config.tensorboard:
            return []
        return [keras.callbacks.TensorBoard(self.workdir / "tensorboard", write_graph=False)]

    def name_bad_image(self, error: tf.errors.OpError) -> None:
        name_bad_image(self.config, self.pictures, None, self.checkpoint.step, error)
