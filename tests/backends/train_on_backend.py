"""Trains the compound model, an LDAM classifier and probes on NumPy arrays, on the backend of $KERAS_BACKEND.

Run as `python -m tests.backends.train_on_backend OUT.npz`; everything random comes from NumPy.
"""

import sys

import keras
import numpy as np

from rfd_tf.callbacks import DeferredReweighting, InstanceWeighting
from rfd_tf.imbalance import effective_rotation_counts, rotation_instance_weights
from rfd_tf.layers import CosineDense
from rfd_tf.losses import CLASSIFIER_LOSSES, LDAMLoss, classifier_loss
from rfd_tf.models import (
    InstanceTask,
    ProbedModel,
    RotationDecoupling,
    RotationTask,
    linear_probe,
    resnet_cifar,
)
from rfd_tf.optimizers import CoupledSGD

N, BATCH, K = 256, 8, 16


def set_weights(model, rng) -> None:
    """The same weights on every backend: small kernels, unit scales."""
    for variable in model.variables:
        if variable.path.endswith(("kernel", "bias", "rows")):
            variable.assign(rng.uniform(-0.2, 0.2, variable.shape).astype("float64"))


def train_compound(rng) -> dict[str, np.ndarray]:
    weights = rotation_instance_weights(rng.uniform(size=(N, 4)))
    model = RotationDecoupling(
        resnet_cifar(8, (12, 12, 3), ["pool"], width=4),
        N,
        rotation_task=RotationTask(
            "cosine", LDAMLoss(effective_rotation_counts(weights)), True, view_margins=(0.2, 0.1)
        ),
        instance_task=InstanceTask(num_negatives=K),
    )
    set_weights(model, rng)
    model.set_instance_weights(weights)
    model.compile(CoupledSGD(0.003, 0.9, nesterov=True, coupled_weight_decay=5e-4))
    data = {
        "image": rng.normal(size=(2 * BATCH, 12, 12, 3)).astype("float64"),
        "index": np.arange(2 * BATCH),
        "negatives": rng.integers(0, N, (2 * BATCH, K)).astype("int32"),
    }
    callbacks = [DeferredReweighting(1, beta=0.99), InstanceWeighting(1)]
    history = model.fit(data, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    results = {f"compound/{name}": np.array(values) for name, values in history.history.items()}
    results["compound/bank"] = keras.ops.convert_to_numpy(model.memory_bank.rows.value)
    results["compound/normalizer"] = keras.ops.convert_to_numpy(model.memory_bank.normalizer.value)
    results["compound/rotation_head"] = keras.ops.convert_to_numpy(model.rotation_head.kernel.value)
    outputs = model.predict(data, batch_size=BATCH, verbose=0)
    return results | {f"compound/{name}": value for name, value in outputs.items()}


def train_classifier(rng) -> dict[str, np.ndarray]:
    counts = (1000, 100, 10)
    model = keras.Sequential([keras.Input((6,)), CosineDense(3)])
    set_weights(model, rng)
    model.compile(CoupledSGD(0.1, 0.9), loss=LDAMLoss(counts))
    x, y = rng.normal(size=(32, 6)).astype("float64"), rng.integers(0, 3, 32)
    history = model.fit(
        x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=[DeferredReweighting(1, beta=0.999)]
    )
    return {
        "classifier/loss": np.array(history.history["loss"]),
        "classifier/logits": model.predict(x, verbose=0),
    }


def train_probes(rng) -> dict[str, np.ndarray]:
    """Two probes on a frozen map, one of them re-weighted late."""
    images = keras.Input((12, 12, 3))
    network = keras.Model(images, {"map": keras.layers.Conv2D(4, 3, activation="relu")(images)})
    counts = (100, 30, 10)
    losses = {
        "dense": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "cosine": LDAMLoss(counts),
    }
    probes = {
        name: linear_probe((10, 10, 4), len(counts), pool_size=4, cosine=name == "cosine", name=name)
        for name in losses
    }
    model = ProbedModel(probes, dict.fromkeys(probes, "map"), losses, network)
    set_weights(model, rng)
    model.compile(CoupledSGD(0.01, 0.9, nesterov=True, coupled_weight_decay=5e-4))
    x, y = rng.normal(size=(32, 12, 12, 3)).astype("float64"), rng.integers(0, 3, 32)
    callbacks = [DeferredReweighting(1, 0.999, losses["cosine"])]
    history = model.fit(
        {"image": x}, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
    )
    results = {f"probes/{name}": np.array(values) for name, values in history.history.items()}
    outputs = model.predict({"image": x}, verbose=0)
    return results | {f"probes/{name}": value for name, value in outputs.items()}


def classifier_losses(rng) -> dict[str, np.ndarray]:
    logits, labels = rng.normal(size=(16, 3)), rng.integers(0, 3, 16)
    found = {name: classifier_loss(name, (1000, 100, 10)).loss(labels, logits) for name in CLASSIFIER_LOSSES}
    soft = rng.dirichlet(np.ones(3), 16)
    for name in CLASSIFIER_LOSSES:
        loss = classifier_loss(name, (1000, 100, 10)).loss
        found[f"{name}/soft"] = loss(soft, logits)
        found[f"{name}/none"] = type(loss).from_config({**loss.get_config(), "reduction": "none"})(
            labels, logits
        )
    return {f"losses/{name}": keras.ops.convert_to_numpy(value) for name, value in found.items()}


def main(path: str) -> None:
    # Doubles: what rounding makes of ReLUs and batch norm in a few float32 steps is more than 1e-4.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    rng = np.random.default_rng(0)
    results = train_compound(rng) | train_classifier(rng) | train_probes(rng) | classifier_losses(rng)
    np.savez(path, backend=keras.backend.backend(), **results)


if __name__ == "__main__":
    main(sys.argv[1])
