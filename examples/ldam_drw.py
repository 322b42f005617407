# %% [markdown]
"""LDAM-DRW on a long tail, in a `model.fit` of your own, beside cross-entropy.

    python examples/ldam_drw.py --out=/tmp/ldam_drw

The images are scikit-learn's handwritten digits, of which each further class keeps fewer. One seed and a
small network: the table shows how it is done; what it gains is in docs/results.md.
"""

# %%
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

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("ldam_drw"), help="folder for top1.json")
parser.add_argument("--epochs", type=int, default=30, help="passes over the images")
arguments = parser.parse_args([] if "get_ipython" in globals() else None)  # a notebook takes the defaults

# %% [markdown]
# Training images whose classes fall from 120 to 6 images, and a balanced test set of others.

# %%
digits = load_digits()
images = (digits.images[..., None] / 16).astype("float32")  # [N, 8, 8, 1]
order = np.random.default_rng(0).permutation(len(images))
counts = np.geomspace(120, 6, 10).round().astype(int)
of_class = [order[digits.target[order] == label] for label in range(10)]
train = np.concatenate([rows[:count] for rows, count in zip(of_class, counts, strict=True)])
test = np.concatenate([rows[120:170] for rows in of_class])
print(f"training images by class: {counts.tolist()}")


# %% [markdown]
# LDAM's margins are for cosines: its last layer, `CosineDense`, has unit features and unit class weights. The
# callback re-weights the classes for the last fifth of the epochs.


# %%
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


cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
late = DeferredReweighting(start_epoch=arguments.epochs * 4 // 5, beta=0.9999)
ways = {
    "cross-entropy": (keras.layers.Dense(10), cross_entropy, []),
    "ldam-drw": (CosineDense(10), LDAMLoss(counts), [late]),
}

# %%
groups = {name: classes for name, classes in shot_groups(counts).items() if len(classes)}
labels = digits.target[test]
table = {}
for name, (classifier, loss, callbacks) in ways.items():
    keras.utils.set_random_seed(0)
    model = network(classifier)
    model.compile(keras.optimizers.Adam(3e-3), loss=loss)
    model.fit(
        images[train],
        digits.target[train],
        batch_size=32,
        epochs=arguments.epochs,
        callbacks=callbacks,
        verbose=0,
    )
    right = model.predict(images[test], verbose=0).argmax(-1) == labels
    table[name] = {"all": float(right.mean())} | {
        group: float(right[np.isin(labels, classes)].mean()) for group, classes in groups.items()
    }

# %%
print(f"{'top-1 in %':<14}" + "".join(f"{group:>8}" for group in ("all", *groups)))
for name, row in table.items():
    print(f"{name:<14}" + "".join(f"{100 * value:8.1f}" for value in row.values()))
arguments.out.mkdir(parents=True, exist_ok=True)
(arguments.out / "top1.json").write_text(json.dumps(table, indent=2) + "\n")
