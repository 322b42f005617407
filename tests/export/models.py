"""Tiny models to export, and images."""

import io
import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from rfd_tf.data import Preprocessing
from rfd_tf.features import KerasFeatureModel, keras_feature_model
from rfd_tf.models import InstanceTask, RotationDecoupling, RotationTask, alexnet, create_backbone

RECIPE = {
    "image_size": 16,
    "train": "random_crop",
    "resize": 20,
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.2, 0.3),
}


def write_run(folder: Path, data: dict | None = None, backbone: keras.Model | None = None) -> Path:
    """The folder of a finished run with heads; by default of a ResNet-8 of width 4."""
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    if backbone is None:
        features = ["block1", "pool", "fc_block"]
        backbone = create_backbone("resnet8", (16, 16, 3), features, width=4, dense_width=32)
        move_statistics(backbone)
    last = list(backbone.output)[-1]
    model = RotationDecoupling(
        backbone,
        10,
        feature_name=last,
        rotation_task=RotationTask("cosine"),
        instance_task=InstanceTask(num_negatives=2),
    )
    backbone.save(folder / "backbone.keras")
    model.heads().save(folder / "heads.keras")
    config = {"preprocessing": RECIPE, "backbone": {"feature": last}, "data": data or {}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def small_backbone() -> keras.Model:
    """Two convolutions with batch norms: quicker to trace than any real network."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((16, 16, 3), name="image")
    features = {}
    for name in ("conv1", "conv2"):
        x = keras.layers.Conv2D(6, 3, use_bias=False, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
        x = features[name] = keras.layers.ReLU(name=name)(x)
    features["pool"] = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    backbone = keras.Model(inputs, features, name="small")
    move_statistics(backbone)
    return backbone


def small_network() -> KerasFeatureModel:
    return keras_feature_model(small_backbone(), Preprocessing(**RECIPE), "memory")


def tiny_resnet() -> KerasFeatureModel:
    keras.utils.set_random_seed(0)
    backbone = create_backbone("resnet20", (16, 16, 3), ["block1", "pool"], width=4)
    move_statistics(backbone)
    return keras_feature_model(backbone, Preprocessing(**RECIPE), "memory")


def tiny_alexnet() -> KerasFeatureModel:
    keras.utils.set_random_seed(0)
    backbone = alexnet((63, 63, 3), dense_width=32)
    move_statistics(backbone)
    return keras_feature_model(
        backbone, Preprocessing(63, "resize"), "memory", feature_maps=["conv1", "conv5"]
    )


def move_statistics(backbone) -> None:
    """So that batch norms do something."""
    images = np.random.default_rng(0).normal(size=(8, *backbone.input_shape[1:]))
    for _ in range(10):
        backbone(images, training=True)


def normalized(feature_model, count: int = 3) -> np.ndarray:
    """Random normalised images, within what pixels can be."""
    pixels = np.random.default_rng(1).integers(0, 256, (count, *feature_model.info.image_shape))
    return feature_model.info.normalize(pixels)


def image(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    small = np.random.default_rng(width * height).integers(0, 256, (5, 5, 3)).astype("uint8")
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG of that size, of which there is no more."""
    sizes = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + sizes + b"\x08\x02\0\0\0"


def prepared(feature_model, files) -> np.ndarray:
    """By the Python pipeline's own function."""
    return np.stack(
        [feature_model.info.preprocessing.eval_image(tf.constant(file)).numpy() for file in files]
    )
