"""A tiny model on the disk, and images good and bad."""

import functools
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

from rfd_tf.data import evaluation_dataset, open_images
from rfd_tf.features import ExtractOptions, extract, open_feature_model
from rfd_tf.features.store import describe_extraction
from rfd_tf.files import LocalStorage
from rfd_tf.models import create_backbone
from tests.data.images import animated_webp, encoded, random_image

RECIPE = {"image_size": 16, "train": "random_crop", "resize": 18}
OPTIONS = {"format": "parquet", "dtype": "float32", "shard_size": 4, "max_pixels": 10_000}


def write_run(folder: Path, seed: int = 0) -> Path:
    """The folder of a finished run: 8 features, and the map `block1` of 16x16x4."""
    import keras

    keras.utils.set_random_seed(seed)
    folder.mkdir(parents=True)
    backbone = create_backbone("resnet8", (16, 16, 3), ["block1", "fc_block"], width=4, dense_width=8)
    backbone(np.random.default_rng(seed).normal(size=(8, 16, 16, 3)), training=True)
    backbone.save(folder / "backbone.keras")
    config = {"preprocessing": RECIPE, "backbone": {"feature": "fc_block"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_bad(folder: Path) -> dict[str, str]:
    """Images that cannot be used, by name, with what the reason must say."""
    bad = {
        "b-cut.jpg": (encoded(random_image(seed=50))[:900], "Invalid JPEG"),
        "b-cut.png": (encoded(random_image(seed=51), "PNG")[:1000], "(?i)png|decode"),
        "b-film.webp": (animated_webp(), "animated WebP"),
        "b-text.png": (b"hello", "no JPEG, PNG"),
        "b-empty.jpg": (b"", "empty"),
        "b-large.png": (encoded(Image.new("1", (101, 100)), "PNG"), "101x100 pixels, more than 10000"),
        "b-long.png": (encoded(Image.new("1", (1, 101)), "PNG"), "more than 100 times"),
        "b-paper.tif": (encoded(random_image(seed=53), "TIFF"), "no JPEG, PNG"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    (folder / "b-nowhere.jpg").symlink_to(folder / "gone")
    return {name: reason for name, (_, reason) in bad.items()} | {"b-nowhere.jpg": "No such file"}


@functools.cache
def opened(run: Path):
    """The feature model of a run, opened once."""
    return open_feature_model(run, ["block1"])


def run_extract(
    feature_model, images, out, *, outputs=("features", "block1"), batch_size=3, on_error="skip", **options
):
    """`extract` as the command calls it, of an open feature model or a run's; the skipped images."""
    feature_model = opened(feature_model) if isinstance(feature_model, Path) else feature_model
    source = open_images(images)
    settings = describe_extraction(
        feature_model, "run", source, str(images), list(outputs), **OPTIONS | options
    )
    return extract(feature_model, source, settings, LocalStorage(out), ExtractOptions(batch_size, on_error))


def by_hand(run, source, index, outputs=("features", "block1")) -> dict[str, np.ndarray]:
    """The features of the images `index`, each on its own."""
    feature_model, found = opened(run), []
    for batch in evaluation_dataset(source, feature_model.info.preprocessing, 1, np.asarray(index)):
        features = batch[0] if isinstance(batch, tuple) else batch
        found.append(feature_model(features["image"].numpy(), outputs))
    return {name: np.concatenate([features[name] for features in found]) for name in outputs}


def shards(out: Path) -> list[str]:
    return sorted(name for name in os.listdir(out) if name.startswith("features-"))
