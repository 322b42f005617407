"""Folders of finished runs, written without training: what the report reads is all there."""

import json

import keras
import numpy as np
from PIL import Image

from rfd_tf.configs.pretrain.image_folder import get_config
from rfd_tf.models import InstanceTask, RotationDecoupling
from rfd_tf.runs.build import build_backbone
from tests.report.made_up import made_up_history

SIZE = 16
COUNTS = {"<img src=x onerror=\"document.title='hacked'\">": 101, "blue & green": 30, "white": 5}
VALIDATION = 8  # images of each class


def write_images(root, counts, seed=0):
    """Class folders of noisy images, each class in a colour of its own."""
    rng = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        colour = np.eye(3)[number] * 150
        for i in range(count):
            noise = rng.integers(0, 100, (SIZE, SIZE, 3))
            noise[: SIZE // 2] //= 3  # darker above: there is an upright
            Image.fromarray((colour + noise).astype("uint8")).save(root / name / f"{i:03}.png")


def write_run(folder, training, validation=None, source="image_folder"):
    """The folder of a finished run on these images: config, history, network, heads."""
    config = get_config()
    config.epochs = 5
    config.batch_size = 64
    config.data.update({"source": source, "root": str(training)})
    if validation is not None:
        config.validation.update({"source": source, "root": str(validation)})
    config.preprocessing.update({"image_size": SIZE, "train": "resize", "resize": SIZE})
    config.backbone.update(
        {"name": "resnet8", "features": ("block1", "pool", "fc_block"), "width": 4, "dense_width": 8}
    )
    config.knn.update({"feature": "pool", "k": 5})
    keras.utils.set_random_seed(0)
    model = RotationDecoupling(
        build_backbone(config), 10, feature_name="fc_block", instance_task=InstanceTask(num_negatives=2)
    )
    # Moves the statistics of batch norm from their start.
    model.backbone(np.random.default_rng(0).normal(size=(16, SIZE, SIZE, 3)), training=True)
    folder.mkdir()
    model.heads().save(folder / "heads.keras")
    model.backbone.save(folder / "backbone.keras")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    write_history(folder / "history.csv", made_up_history(5))


def write_history(path, history):
    rows = [",".join(history), *(",".join(map(str, row)) for row in zip(*history.values(), strict=True))]
    path.write_text("\n".join(rows) + "\n")
