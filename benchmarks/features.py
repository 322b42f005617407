"""Features of images in each form that a model comes in, against eager PyTorch, by batch size.

    python -m benchmarks.features [--batch=32] [--forms=FOLDER]

AlexNet at 224 up to its 4096 features, two threads, normalised float32 images in, NumPy arrays out. The forms
in float32 must agree on the features (1e-3 of the value, 1e-4 absolutely).
"""

import argparse
import functools
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import THREADS, measure, plain_torch, quiet_tensorflow
from benchmarks.outcome import Row, save

SIDE, GOAL = 224, 1.3
STEPS = {1: 10, 32: 2}  # within a turn; as many before are not timed, as ONNX Runtime's threads spin on
EXACT = ("Keras predict", "SavedModel", "ONNX", "ONNX, folded")


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, SIDE, SIDE, 3)).astype("float32")


def export(folder: Path) -> None:
    """Write the forms: `plain`, and `folded` with its batch norm within the convolutions."""
    quiet_tensorflow()
    import zoo
    from rfd_tf.data import Preprocessing
    from rfd_tf.exporting.writers import onnx_model, write_onnx, write_saved_model
    from rfd_tf.features.keras_feature_model import KerasFeatureModel, keras_feature_model, save_keras
    from rfd_tf.models import alexnet

    plain, folded = folder / "plain", folder / "folded"
    plain.mkdir(parents=True)
    feature_model = keras_feature_model(alexnet(feature_names=["fc_block"]), Preprocessing(SIDE), "benchmark")
    save_keras(feature_model, plain / "model.keras")
    write_saved_model(feature_model, plain / "saved_model" / "1")
    write_onnx(onnx_model(feature_model), plain / "model.onnx")
    folded.mkdir()
    model = zoo.fold_batch_norm(feature_model.model)
    converted = onnx_model(KerasFeatureModel(model, feature_model.info, feature_model.location))
    write_onnx(converted, folded / "model.onnx")
    write_onnx(converted, folded / "model.int8.onnx", "int8")


def keras_predict(folder: Path, batch: int):
    quiet_tensorflow()
    import keras

    model, given = keras.saving.load_model(folder / "plain" / "model.keras"), images(batch)
    return lambda: model.predict(given, batch_size=batch, verbose=0)["features"]


def opened_model(path: Path, batch: int):
    import os

    quiet_tensorflow()
    from rfd_tf.features.open_feature_model import THREADS_VARIABLE, open_feature_model

    os.environ[THREADS_VARIABLE] = str(THREADS)
    opened, given = open_feature_model(path), images(batch)
    return lambda: opened(given, ["features"])["features"]


def pytorch(batch: int):
    torch = plain_torch()
    from benchmarks.torch_alexnet import alexnet

    model = alexnet().eval()
    given = images(batch).transpose(0, 3, 1, 2).copy()

    def step():
        with torch.inference_mode():
            return model(torch.from_numpy(given)).numpy()

    return step


def measure_batch(folder: Path, batch: int) -> list[Row]:
    plain, folded = folder / "plain", folder / "folded"
    found = measure(
        {
            "PyTorch": functools.partial(pytorch, batch),
            "Keras predict": functools.partial(keras_predict, folder, batch),
            "SavedModel": functools.partial(opened_model, plain / "saved_model", batch),
            "ONNX": functools.partial(opened_model, plain / "model.onnx", batch),
            "ONNX, folded": functools.partial(opened_model, folded / "model.onnx", batch),
            "ONNX, folded, int8": functools.partial(opened_model, folded / "model.int8.onnx", batch),
        },
        steps=STEPS.get(batch, 1),
        settle=STEPS.get(batch, 1),
        limit_seconds=60,
    )
    theirs = found.pop("PyTorch")
    for name in EXACT:
        np.testing.assert_allclose(found[name].first, found["Keras predict"].first, rtol=1e-3, atol=1e-4)
    best = min(EXACT, key=lambda name: found[name].median)
    rows = []
    for name, ours in found.items():
        ratio = theirs.median / ours.median
        goal = {"goal": f"{GOAL} times", "met": ratio >= GOAL} if name == best else {}
        rows.append(
            Row(
                4,
                f"features, batch {batch}: {name}" + (" (best of float32)" if name == best else ""),
                "images/s",
                ours.per_second(batch),
                theirs.per_second(batch),
                "eager PyTorch",
                ratio,
                **goal,
                why="reading the 218 MB of fc6 and fc7 is most of batch 1, and PyTorch reads as fast; next: "
                "weights in bfloat16; see NOTES.md, features",
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=0, help="1 or 32; by default both")
    parser.add_argument("--forms", help="folder to keep the exports in; one that has them is used as it is")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.forms or temporary)
        if not (folder / "folded").exists():
            _export_elsewhere(folder)
        for size in (arguments.batch,) if arguments.batch else STEPS:
            save(f"features-{size}", measure_batch(folder, size))


def _export_elsewhere(folder: Path) -> None:
    """In a process of its own, so that this one stays small."""
    exporting = multiprocessing.get_context("spawn").Process(target=export, args=(folder,))
    exporting.start()
    exporting.join(timeout=600)
    if exporting.exitcode != 0:
        raise SystemExit("The export failed; its error is above")


if __name__ == "__main__":
    main()
