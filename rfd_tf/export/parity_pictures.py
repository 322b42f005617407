"""Real pictures to compare a model's forms on."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from rfd_tf import data
from rfd_tf.data.picture_checks import unusable_picture
from rfd_tf.json_text import parse_json

Picture = tuple[str, bytes]  # where it is from, and a picture file's bytes
_CROP = 240  # pixels of the bundled photographs' crops


def pictures_at(path: Path, count: int) -> list[Picture]:
    """Up to `count` pictures of a folder, evenly spread, or the one at `path`; unusable ones are logged.

    Raises:
        FileNotFoundError: if there is no picture.
        ValueError: if none can be used.
    """
    if path.is_dir():
        return _usable(data.FlatFolder(path), count, str(path))
    if not path.is_file():
        raise FileNotFoundError(f"No picture or folder of pictures at {path}")
    content = path.read_bytes()
    if reason := unusable_picture(content):
        raise ValueError(f"{path}: {reason}")
    return [(str(path), content)]


def pictures_of_run(workdir: Path, count: int) -> list[Picture]:
    """Up to `count` training pictures of a run, by its config; none where they are not there any more."""
    try:
        config = parse_json((workdir / "config.json").read_text(encoding="utf-8"))["data"]
        options = {"name": config["name"]} if config.get("name") else {}
        if config["source"] == "tfds":
            options["cache_dir"] = workdir / "cache"
        if config["source"] in ("image_folder", "flat_folder"):
            options["on_error"] = "skip"
        source = data.open_source(config["source"], config["root"], config["split"] or "train", **options)
        return _usable(source, count, str(workdir))
    except (OSError, ValueError, KeyError, ImportError) as error:
        logging.info("The pictures of %s cannot be used (%s)", workdir, error)
        return []


def bundled_pictures(count: int) -> list[Picture]:
    """`count` crops of scikit-learn's two sample photographs, as PNG."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    samples = load_sample_images()
    rng = np.random.default_rng(0)
    crops = []
    for number in range(count):
        which = number % len(samples.images)
        photograph = samples.images[which]
        top, left = (int(rng.integers(side - _CROP + 1)) for side in photograph.shape[:2])
        file = io.BytesIO()
        Image.fromarray(photograph[top : top + _CROP, left : left + _CROP]).save(file, "PNG")
        crops.append((f"scikit-learn {Path(samples.filenames[which]).name} +{left}+{top}", file.getvalue()))
    return crops


def _usable(source: data.Source, count: int, where: str) -> list[Picture]:
    found = []
    for name, content in _spread(source, count):
        if reason := unusable_picture(content):
            logging.warning("Not compared on %s: %s", name, reason)
        else:
            found.append((name, content))
    if not found:
        raise ValueError(f"{where}: none of the pictures tried can be used")
    return found


def _spread(source: data.Source, count: int) -> Iterator[Picture]:
    for row in np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype("int64")):
        fetched = source.fetch(tf.constant(row))
        content = fetched if source.encoded else tf.io.encode_png(fetched)
        yield source.describe(int(row)), content.numpy()
