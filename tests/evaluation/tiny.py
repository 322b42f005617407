"""Experiments small enough for tests: 60 images of three colours, and a network of two convolutions."""

import keras
import numpy as np

from rfd_tf.configs.evaluate import base
from rfd_tf.data import Preprocessing
from rfd_tf.features import FeatureModel, keras_feature_model
from rfd_tf.models.backbone import dense_block

SIDE, CLASSES = 16, 3
DENSE = 6
RECIPE = Preprocessing(SIDE, "resize", flip=False, mean=(0.5,) * 3, std=(0.25,) * 3)


def write_images(path, per_class=(20, 20, 20), noise=40.0, seed=0) -> None:
    """An .npz file: class c is noise around an image in which colour c is bright."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, counts in (("train", per_class), ("test", (8,) * CLASSES)):
        labels = rng.permutation(np.repeat(np.arange(CLASSES), counts))
        images = rng.normal(100, noise, (len(labels), SIDE, SIDE, 3))
        images[np.arange(len(labels)), :, :, labels] += 60
        arrays |= {f"{split}_images": images.clip(0, 255).astype("uint8"), f"{split}_labels": labels}
    np.savez(path, **arrays)


def feature_model():
    """Maps `first` [7, 7, 3] and `second` [3, 3, 4], `features` [4]; batch norm has statistics."""
    keras.utils.set_random_seed(7)
    inputs = x = keras.Input((SIDE, SIDE, 3), name="image")
    outputs = {}
    for name, filters in (("first", 3), ("second", 4)):
        x = keras.layers.Conv2D(filters, 3, 2, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
        x = outputs[name] = keras.layers.ReLU(name=name)(x)
    outputs["pool"] = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    network = keras.Model(inputs, outputs, name="tiny")
    network(np.random.default_rng(0).normal(size=(32, SIDE, SIDE, 3)), training=True)
    return keras_feature_model(network, RECIPE, "tiny", decoupled=False)


def with_dense_layers():
    """The same network with fc6 and fc7 on its last map."""
    network = feature_model().model
    dense = dense_block(network.output["second"], DENSE)
    outputs = {"second": network.output["second"], "fc_block": dense}
    return keras_feature_model(
        keras.Model(network.inputs, outputs, name="dense"), RECIPE, "dense", decoupled=False
    )


class OtherForm(FeatureModel):
    """The same network behind the interface that is all one knows of an exported or served model."""

    def __init__(self, inner):
        super().__init__(inner.info, "other form")
        self.inner = inner

    @property
    def fingerprint(self):
        return "other form"

    def _extract(self, images, names):
        return self.inner(images, names)


def config_of(path, **changes):
    """The images at `path`; `changes` by dotted name, dots written as two underscores."""
    config = base.get_config()
    config.batch_size = 12
    config.epochs = 3
    config.tensorboard = False
    config.data.source = config.validation.source = "npz"
    config.data.root = config.validation.root = str(path)
    config.validation.split = "test"
    config.preprocessing.flip = False
    config.optimizer.milestones = ((2, 1e-2), (3, 1e-3))
    config.classifier.drw_start_epoch = 2
    config.nonlinear.width = 8
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config
