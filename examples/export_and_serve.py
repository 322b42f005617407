"""Export a model as SavedModel and ONNX, compute features by each, and write TensorFlow Serving's folder.

    python examples/export_and_serve.py --out=/tmp/exported

The model is a small entry of the zoo that comes with the package. The server itself is not started here:
that takes Docker and TensorFlow Serving's image, as `OUT/README.md` says.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import rfd_tf


def main(out: Path, model: str) -> None:
    # Nothing stays in `out` unless each form computes what the Keras model does.
    compared = rfd_tf.export(model, out, formats=("saved_model", "onnx"), serving=True)
    print(f"outputs compared: {len(compared)}, all within {max(one.max_difference for one in compared):.1e}")

    pixels = np.kron(load_digits().images[:16] * 255 / 16, np.ones((4, 4))).astype("uint8")
    images = np.repeat(pixels[..., None], 3, axis=-1)  # uint8 [16, 32, 32, 3]
    expected = rfd_tf.load(model).features(images)
    # How images are prepared travels with each form.
    for form in ("saved_model/1", "model.onnx"):
        features = rfd_tf.load(out / form).features(images)
        print(f"{form}: features {features.shape}, difference {np.abs(features - expected).max():.1e}")
    print("to serve it: docker compose up --wait, in", out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the export into")
    parser.add_argument("--model", default="zoo:rfd_resnet20_digits", help="a run's folder or zoo:NAME")
    arguments = parser.parse_args()
    main(arguments.out, arguments.model)
