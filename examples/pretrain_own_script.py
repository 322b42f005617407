"""Rotation feature decoupling in a script of your own: tf.data, MirroredStrategy, `model.fit`.

    python examples/pretrain_own_script.py --out=/tmp/pretrained --replicas=2

docs/own_training_script.md says why each part is as it is. The images are scikit-learn's handwritten digits.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from rfd_tf.distribution import keras_workarounds, split_cpu
from rfd_tf.models import InstanceTask, RotationDecoupling, resnet_cifar


def batches_of(images: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Dicts of images and their indices: an image keeps its index, and is in a batch once."""

    def prepare(index, image):
        padded = tf.pad(image, [[2, 2], [2, 2], [0, 0]], constant_values=-1.0)
        return {"image": tf.image.random_crop(padded, [16, 16, 3]), "index": index}

    rows = tf.data.Dataset.from_tensor_slices((np.arange(len(images)), images))
    shuffled = rows.shuffle(len(images), seed=0).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    # Each replica needs a share of every batch, of one size.
    return shuffled.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def main(out: Path, epochs: int, replicas: int, batch_size: int = 64) -> None:
    if replicas:
        split_cpu(replicas)  # to try several replicas without GPUs; before TensorFlow uses a device
    keras.utils.set_random_seed(0)
    digits = np.kron(load_digits().images[:640] / 8 - 1, np.ones((2, 2)))
    images = np.repeat(digits[..., None], 3, axis=-1).astype("float32")  # [640, 16, 16, 3] in [-1, 1]

    # All GPUs of this machine, else its CPUs.
    devices = [f"CPU:{number}" for number in range(replicas)] if replicas else None
    strategy = tf.distribute.MirroredStrategy(devices)
    print("replicas:", strategy.num_replicas_in_sync)
    with strategy.scope():
        # `fc_block` is a dense block on top: its output is split into the two halves.
        backbone = resnet_cifar(
            8, (16, 16, 3), ["pool", "fc_block"], width=8, dense_width=64, synchronized=True
        )
        model = RotationDecoupling(
            backbone, len(images), instance_task=InstanceTask("softmax", num_negatives=0, temperature=0.2)
        )
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True))
        model.optimizer.build(model.trainable_variables)
    with keras_workarounds(strategy):
        history = model.fit(batches_of(images, batch_size), epochs=epochs, verbose=0).history
    for epoch in range(epochs):
        shown = (f"{name} {history[name][epoch]:.3f}" for name in ("loss", "rotation_accuracy"))
        print(f"epoch {epoch + 1}:", *shown)

    out.mkdir(parents=True, exist_ok=True)
    model.backbone.save(out / "backbone.keras")
    model.heads().save(out / "heads.keras")
    print("features of the saved backbone:", list(keras.saving.load_model(out / "backbone.keras").output))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for backbone.keras and heads.keras")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the images")
    parser.add_argument("--replicas", type=int, default=0, help="split the CPU into so many; 0: as it is")
    arguments = parser.parse_args()
    main(arguments.out, arguments.epochs, arguments.replicas)
