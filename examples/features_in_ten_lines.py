# %% [markdown]
"""Pretrain on images without labels, load the run, compute features, and measure what they are worth.

    python examples/features_in_ten_lines.py --out=/tmp/features

The images are scikit-learn's handwritten digits. Ten epochs show the way, not the method's worth.
"""

# %%
import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import rfd_tf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("features"), help="folder to write the run into")
parser.add_argument("--epochs", type=int, default=10, help="passes over the images")
arguments = parser.parse_args([] if "get_ipython" in globals() else None)  # a notebook takes the defaults

# %% [markdown]
# Images are uint8 [N, 16, 16, 3] here; a folder of images would do as well.

# %%
digits = load_digits()
pixels = np.kron(digits.images * 255 / 16, np.ones((2, 2))).astype("uint8")
images = np.repeat(pixels[..., None], 3, axis=-1)
train, test = (images[:500], digits.target[:500]), (images[500:800], digits.target[500:800])

# %% [markdown]
# The labels are not learnt from. `pretrain` called again goes on where it stopped.

# %%
run = rfd_tf.pretrain(
    train, arguments.out / "run", backbone="resnet8", image_size=16, epochs=arguments.epochs, batch_size=50
)

# %%
model = rfd_tf.load(run)
features = model.features(test[0])
print("features:", features.shape)

# %% [markdown]
# What they are worth, beside those of the same network untrained: top-1 of the 20 nearest neighbours.

# %%
for control in (False, True):
    result = rfd_tf.evaluate(run, "knn", train, test, control=control)
    top1 = result.figures["features, k=20"].top1
    print("untrained:" if control else "pretrained:", f"{100 * top1:.1f} % top-1")
