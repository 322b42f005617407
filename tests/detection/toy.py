"""A detection task small enough for tests: bright rectangles on noise, whose colour is their class."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from rfd_tf.data import Preprocessing
from rfd_tf.features import keras_feature_model, save_keras
from rfd_tf.models.backbone import dense_block
from tests.data.devkits import annotation
from tests.training.processes import ROOT

CLASSES = ("cat", "cow", "dog")
TRAINING, TEST = 8, 4
SIDE = 32  # of the images that the network was made for
DENSE = 16
MOST = 60  # proposals
RECIPE = Preprocessing(SIDE, "resize", mean=(0.4,) * 3, std=(0.25,) * 3)
FLAGS = {
    "--config": "voc2007_small",
    "--config.steps": "12",
    "--config.log_steps": "4",
    "--config.checkpoint_steps": "3",
    "--config.tensorboard": "False",
    "--config.scales": "(60,72)",
    "--config.longest": "200",
    "--config.proposals.mode": "single",
    "--config.proposals.processes": "1",
    "--config.proposals.most": str(MOST),
    "--config.detector.feature": "second",
    "--config.detector.stride": "4",
    "--config.detector.frozen": "first",
    "--config.detector.pool_size": "2",
    "--config.detector.dense_width": str(DENSE),
    "--config.regions.count": "32",
    "--config.test.short_sides": "(60,)",
    "--config.test.longest": "200",
    "--config.optimizer.milestones": "((8,1e-3),(12,1e-4))",
    "--config.draw": "2",
}


def write_devkit(root: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """Images of 80 x 60 with one or two objects, in a devkit below `root`."""
    folder = root / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    names = [f"{number:06}" for number in range(TRAINING + TEST)]
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        pixels = rng.integers(80, 110, (60, 80, 3))
        objects = []
        for half in range(1 + number % 2):  # in the left half, and in the right one
            left, top = 4 + 40 * half + rng.integers(0, 6), rng.integers(3, 20)
            right, bottom = left + rng.integers(20, 28), top + rng.integers(24, 36)
            label = (number + half) % len(classes)
            pixels[top : bottom + 1, left : right + 1, label] = 250
            objects.append((classes[label], (left + 1, top + 1, right + 1, bottom + 1), False))
        Image.fromarray(pixels.astype("uint8")).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        (folder / "Annotations" / f"{name}.xml").write_text(annotation(*objects, size=(80, 60)))
    for split, listed in (("trainval", names[:TRAINING]), ("test", names[TRAINING:])):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(listed))
    return root


def network():
    """Maps `first` and `second` (4 pixels a cell), and fc6 and fc7 on the last; with batch norms."""
    keras.utils.set_random_seed(3)
    inputs = x = keras.Input((SIDE, SIDE, 3), name="image")
    outputs = {}
    for name, filters in (("first", 6), ("second", 8)):
        x = keras.layers.Conv2D(filters, 3, 2, padding="same", name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
        x = outputs[name] = keras.layers.ReLU(name=name)(x)
    x = outputs["pool"] = keras.layers.MaxPooling2D(4, name="pool")(x)
    outputs["fc_block"] = dense_block(x, DENSE)
    backbone = keras.Model(inputs, outputs, name="toy")
    backbone(np.random.default_rng(0).normal(size=(64, SIDE, SIDE, 3)), training=True)
    return keras_feature_model(backbone, RECIPE, "toy", decoupled=False)


def write_network(path: Path) -> Path:
    save_keras(network(), path)
    return path


def arguments(root: Path, workdir: Path, **overrides: str) -> list[str]:
    """Of `rfd detect`; `overrides` by field name, dots written as two underscores."""
    flags = FLAGS | {f"--config.{name.replace('__', '.')}": value for name, value in overrides.items()}
    flags |= {f"--config.{part}.root": str(root) for part in ("data", "validation")}
    return [
        f"--model={root / 'network.keras'}",
        f"--workdir={workdir}",
        *(f"{name}={value}" for name, value in flags.items()),
    ]


def start(root: Path, workdir: Path, **overrides: str) -> subprocess.Popen:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "rfd_tf.cli", "detect", *arguments(root, workdir, **overrides)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
