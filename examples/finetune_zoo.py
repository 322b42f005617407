"""Fine-tune a backbone of the zoo on labelled images, beside the same network from random weights.

    python examples/finetune_zoo.py --out=/tmp/finetuned

The images are scikit-learn's handwritten digits. The zoo's entry was pretrained on some of them without
labels, so that the difference shows how it is done, not what it gains on images that are new.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import rfd_tf


def network_of(run: Path) -> dict:
    """The arguments of `rfd_tf.classify` that give the network of a run, from random weights."""
    config = json.loads((run / "config.json").read_text())
    backbone = config["backbone"]
    fields = {f"backbone.{name}": backbone[name] for name in ("feature", "width", "dense_width")}
    fields["backbone.features"] = tuple(backbone["features"])
    return {"backbone": backbone["name"], "image_size": config["preprocessing"]["image_size"], **fields}


def main(out: Path, init: str, epochs: int) -> None:
    digits = load_digits()
    pixels = np.kron(digits.images * 255 / 16, np.ones((4, 4))).astype("uint8")
    images = np.repeat(pixels[..., None], 3, axis=-1)  # uint8 [N, 32, 32, 3]
    train, test = (images[:300], digits.target[:300]), (images[1200:1500], digits.target[1200:1500])
    network = {"backbone": "resnet20", "image_size": 32}  # where `init` is a run, its own instead
    for name, weights in (("pretrained", init), ("random", "")):
        result = rfd_tf.classify(
            train, out / name, validation=test, init=weights, epochs=epochs, batch_size=50, **network
        )
        print(f"{name}: {100 * result.figures['features'].top1:.1f} % top-1")
        network = network_of(out / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the runs into")
    parser.add_argument(
        "--init", default="zoo:rfd_resnet20_digits", help="a run's folder, or zoo:NAME of a ResNet-20"
    )
    parser.add_argument("--epochs", type=int, default=2, help="passes over the images")
    arguments = parser.parse_args()
    main(arguments.out, arguments.init, arguments.epochs)
