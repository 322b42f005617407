import math
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import distribution
from rfd_tf.data import steps_per_epoch
from rfd_tf.detection.assembly import Fold, build_detector, build_optimizer
from rfd_tf.detection.inputs import check_regions, check_scales, detection_batches
from rfd_tf.detection.proposed_pictures import ProposedPictures
from rfd_tf.detection.regions import delta_statistics, match_regions
from rfd_tf.extractors import KerasExtractor
from rfd_tf.models import FastRCNN
from rfd_tf.training.resumable_run import ResumableRun, check_run_values
from rfd_tf.training.sources import Pictures, check_same_on_all_workers, name_bad_image


def in_epochs(config: ConfigDict) -> ConfigDict:
    """The config with `epochs`, each of `log_steps` steps; ValueError where a field of the run is off."""
    if config.log_steps < 1 or config.steps < 1 or config.steps % config.log_steps:
        raise ValueError(
            "`steps` must be a positive multiple of `log_steps`. "
            f"Received: steps={config.steps}, log_steps={config.log_steps}"
        )
    found = ConfigDict({**config, "epochs": config.steps // config.log_steps})
    check_run_values(found)
    return found


class DetectorRun(ResumableRun):
    """Trains a `FastRCNN`. What `fit` calls an epoch is `config.log_steps` steps here.

    Args:
        config: see `configs/detection/base.py`, with `epochs` (`in_epochs`).
        workdir: folder of this worker.
        strategy: of `distribution.create_strategy`.
        pictures: to learn from.
        extractor: of the pretrained network.
        fold: as of `build_detector`.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        strategy,
        pictures: ProposedPictures,
        extractor: KerasExtractor,
        fold: Fold | None,
    ):
        super().__init__(config, workdir, strategy, config.log_steps * config.batch_size)
        source = pictures.source
        self.proposed = pictures
        self.pictures = Pictures(source, extractor.info.preprocessing, np.arange(len(source)), [])
        matched = zip(pictures.proposals, source.annotations, strict=True)
        learn_difficult = config.regions.get("learn_difficult", False)
        exclusive = config.detector.get("exclusive_deltas", False)
        self.regions = [match_regions(*found, learn_difficult, exclusive) for found in matched]
        self._passes = math.ceil(config.steps / steps_per_epoch(len(source), config.batch_size))
        self.extractor = extractor
        self.fold = fold
        check_same_on_all_workers(self.pictures, strategy)
        check_regions(config.batch_size, config.regions.count, config.regions.foreground_share)
        check_scales(config.scales, config.longest)

    def build_model(self, synchronized: bool) -> FastRCNN:
        num_classes = len(self.pictures.source.class_names)
        model = build_detector(self.config, self.extractor.model, num_classes, self.fold)
        model.set_delta_statistics(*delta_statistics(self.regions, num_classes))
        # Pictures differ in size, and XLA would compile anew for each.
        model.compile(build_optimizer(self.config, model), jit_compile=False)
        return model

    def training_batches(self, start_step: int, epochs: int):
        config, source = self.config, self.pictures.source

        def make(num_workers, worker_index, replicas_per_worker):
            return detection_batches(
                source,
                self.regions,
                self.pictures.preprocessing,
                seed=config.seed,
                epochs=self._passes,
                start_step=start_step,
                batch_size=config.batch_size,
                num_regions=config.regions.count,
                foreground_share=config.regions.foreground_share,
                scales=tuple(config.scales),
                longest=config.longest,
                exif_orientation=self.proposed.exif_orientation,
                num_workers=num_workers,
                worker_index=worker_index,
                replicas_per_worker=replicas_per_worker,
            )

        return distribution.distribute_dataset(self.strategy, make)

    def name_bad_image(self, error: tf.errors.OpError) -> None:
        name_bad_image(self.config, self.pictures, None, self.checkpoint.step, error)
