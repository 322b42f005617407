"""A VOC small enough for tests: classes are bright cells of an image, difficult ones half as bright."""

from pathlib import Path

import numpy as np
from PIL import Image

from rfd_tf.configs.evaluate import voc_classification
from rfd_tf.data import VOC_CLASSES
from tests.data.devkits import write_devkit

TRAINING, TEST = 60, 40
_ROWS, _COLUMNS = 4, 5


def write_voc(root: Path, classes=VOC_CLASSES) -> Path:
    """`root`, a VOCdevkit whose trainval shows every class six times or more."""
    rng = np.random.default_rng(0)
    contents = {}
    for number in range(TRAINING + TEST):
        labels = {number % len(classes), *rng.integers(0, 20, 2).tolist()} & set(range(len(classes)))
        contents[f"{number:06}"] = [_object(classes, label, rng.random() < 0.2) for label in sorted(labels)]
    names = list(contents)
    lists = {"trainval": names[:TRAINING], "test": names[TRAINING:]}
    write_devkit(root / "VOC2007", contents, lists, _draw)
    return root


def _object(classes, label: int, difficult: bool):
    row, column = divmod(label, _COLUMNS)
    return classes[label], (1 + 8 * column, 1 + 7 * row, 8 * column + 8, 7 * row + 7), difficult


def _draw(objects, number: int) -> Image.Image:
    pixels = np.random.default_rng(number).normal(60, 8, (30, 40, 3))
    for _, (x1, y1, x2, y2), difficult in objects:
        pixels[y1 - 1 : y2, x1 - 1 : x2] += 80 if difficult else 160
    return Image.fromarray(pixels.clip(0, 255).astype("uint8"))


def config_of(root, **changes):
    """The images below `root`; `changes` by dotted name, dots written as two underscores."""
    config = voc_classification.get_config()
    config.batch_size = 12
    config.epochs = 2
    config.checkpoint_steps = 0
    config.tensorboard = False
    config.data.root = config.validation.root = str(root)
    config.preprocessing.flip = False
    config.features = ("second",)
    config.optimizer.milestones = ((1, 1e-2), (2, 1e-3))
    config.voc.dense_width = 8
    config.voc.test_crops = 3
    config.voc.costs = (0.1, 1.0, 10.0)
    config.voc.shots = (1, 2, 64)
    config.voc.samples = 2
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config
