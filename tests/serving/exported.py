"""A tiny model, exported."""

from pathlib import Path

import numpy as np

from rfd_tf.data import Preprocessing
from rfd_tf.exporting.writers import write_saved_model
from rfd_tf.features import KerasFeatureModel, keras_feature_model
from rfd_tf.models import InstanceTask, RotationDecoupling, create_backbone

NAME = "tiny"
RECIPE = {"image_size": 16, "train": "random_crop", "resize": 18, "mean": (0.5, 0.4, 0.3)}


def tiny_feature_model(seed: int = 0, **options) -> KerasFeatureModel:
    """RFD's halves, a feature map and the heads of a small random network, whose statistics have moved."""
    import keras

    keras.utils.set_random_seed(seed)
    backbone = create_backbone("resnet8", (16, 16, 3), ["block1", "fc_block"], width=4, dense_width=8)
    model = RotationDecoupling(
        backbone, 10, feature_name="fc_block", instance_task=InstanceTask(num_negatives=2)
    )
    backbone(np.random.default_rng(seed).normal(size=(8, 16, 16, 3)), training=True)
    return keras_feature_model(
        backbone, Preprocessing(**RECIPE), "memory", name=NAME, heads=model.heads(), **options
    )


def export(feature_model: KerasFeatureModel, out: Path, version: int = 1) -> Path:
    """`out`, which then holds `saved_model/VERSION`."""
    write_saved_model(feature_model, out / "saved_model" / str(version))
    return out
