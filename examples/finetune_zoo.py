"""Fine-tune a backbone of the zoo on labelled images, beside the same network from random weights.

    python examples/finetune_zoo.py --out=/tmp/finetuned

The images are scikit-learn's handwritten digits. The zoo's entry was pretrained on some of them without
labels, so that the difference shows how it is done, not what it gains on images that are new.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import rfd_tf


def main(out: Path, init: str, epochs: int) -> None:
    digits = load_digits()
    pixels = np.kron(digits.images * 255 / 16, np.ones((4, 4))).astype("uint8")
    images = np.repeat(pixels[..., None], 3, axis=-1)  # uint8 [N, 32, 32, 3]
    train, test = (images[:300], digits.target[:300]), (images[1200:1500], digits.target[1200:1500])
    for name, weights in (("pretrained", init), ("random", "")):
        result = rfd_tf.classify(
            train,
            out / name,
            validation=test,
            init=weights,
            backbone="resnet20",
            image_size=32,
            epochs=epochs,
            batch_size=50,
        )
        print(f"{name}: {100 * result.figures['features'].top1:.1f} % top-1")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the runs into")
    parser.add_argument("--init", default="zoo:rfd_resnet20_digits", help="zoo:NAME or a run's folder")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the images")
    arguments = parser.parse_args()
    main(arguments.out, arguments.init, arguments.epochs)
