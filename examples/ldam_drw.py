"""LDAM-DRW on a long tail, in a `model.fit` of your own, beside cross-entropy.

    python examples/ldam_drw.py --out=/tmp/ldam_drw

The images are scikit-learn's handwritten digits, of which each further class keeps fewer. One seed and a
small network: the table shows how it is done; what it gains is in docs/results.md.
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

from rfd_tf.callbacks import DeferredReweighting
from rfd_tf.imbalance import shot_groups
from rfd_tf.layers import CosineDense
from rfd_tf.losses import LDAMLoss


def long_tailed_digits(seed: int = 0):
    """Training images whose classes fall from 120 to 6 images, and a balanced test set."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype("float32")  # [N, 8, 8, 1]
    order = np.random.default_rng(seed).permutation(len(images))
    counts = np.geomspace(120, 6, 10).round().astype(int)
    train, test = [], []
    for label, count in enumerate(counts):
        of_class = order[digits.target[order] == label]
        train.extend(of_class[:count])
        test.extend(of_class[120:170])  # what no class trains on
    return (images[train], digits.target[train]), (images[test], digits.target[test]), counts


def network(classifier: keras.layers.Layer) -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            classifier,
        ]
    )


def main(out: Path, epochs: int) -> None:
    train, test, counts = long_tailed_digits()
    late = DeferredReweighting(start_epoch=epochs * 4 // 5, beta=0.9999)
    ways = {
        "cross-entropy": (
            keras.layers.Dense(10),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            [],
        ),
        # The margins are for cosines: LDAM's last layer has unit features and unit class weights.
        "ldam-drw": (CosineDense(10), LDAMLoss(counts), [late]),
    }
    groups = {name: classes for name, classes in shot_groups(counts).items() if len(classes)}
    table = {}
    for name, (classifier, loss, callbacks) in ways.items():
        keras.utils.set_random_seed(0)
        model = network(classifier)
        model.compile(keras.optimizers.Adam(3e-3), loss=loss)
        model.fit(*train, batch_size=32, epochs=epochs, callbacks=callbacks, verbose=0)
        right = model.predict(test[0], verbose=0).argmax(-1) == test[1]
        table[name] = {"all": right.mean()} | {
            group: right[np.isin(test[1], classes)].mean() for group, classes in groups.items()
        }
    print(f"training images by class: {counts.tolist()}")
    print(f"{'top-1 in %':<14}" + "".join(f"{group:>8}" for group in ("all", *groups)))
    for name, row in table.items():
        print(f"{name:<14}" + "".join(f"{100 * value:8.1f}" for value in row.values()))
    out.mkdir(parents=True, exist_ok=True)
    text = {name: {group: float(value) for group, value in row.items()} for name, row in table.items()}
    (out / "top1.json").write_text(json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for top1.json")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the images")
    arguments = parser.parse_args()
    main(arguments.out, arguments.epochs)
