"""Trains the compound model in a process of its own, on one device or two; writes losses and banks.

Run as `python -m tests.distribution.two_replicas OUT.npz one_device|mirrored|multi_worker [WITHOUT]`, where
WITHOUT names a work-around of `rfd_tf.distribution` to leave out; or, to train the backbone NAME on two
devices and on one, as `... OUT.npz backbone NAME`. OUT.npz then has `STRATEGY/WHAT`.
"""

import contextlib
import sys

import numpy as np

from rfd_tf import data, distribution

BATCH, EPOCHS, K = 8, 2, 8
IMAGES = 40


def main(path: str, strategy_name: str, *names: str) -> None:
    if strategy_name == "backbone":
        results = {}
        for kind in ("mirrored", "one_device"):  # the devices are set up first
            strategy = distribution.create_strategy(kind, 2 if kind == "mirrored" else 0)
            found = train(strategy, *names, epochs=1)
            results |= {f"{kind}/{what}": values for what, values in found.items()}
        np.savez(path, **results)
        return
    for workaround in names:  # leave it out
        assert hasattr(distribution, workaround)
        setattr(distribution, workaround, contextlib.nullcontext)
    strategy = distribution.create_strategy(strategy_name, 2 if strategy_name == "mirrored" else 0)
    np.savez(path, **train(strategy))


def train(strategy, name: str = "", epochs: int = EPOCHS) -> dict:
    """Losses, banks and a kernel of a ResNet-8; or of the backbone `name`, with its running statistics."""
    import keras

    # Doubles, so that rounding does not grow into other ReLU and max-pool decisions within the ten steps.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")

    from rfd_tf.imbalance import effective_rotation_counts, rotation_instance_weights
    from rfd_tf.losses import LDAMLoss
    from rfd_tf.models import InstanceTask, RotationDecoupling, RotationTask, create_backbone, resnet_cifar
    from rfd_tf.optimizers import CoupledSGD

    source = data.Subset(data.digits("train"), np.arange(IMAGES))
    size = 32 if name else 16  # MobileNetV2 takes no smaller ones
    preprocessing = data.Preprocessing(size, "resize", size, flip=False, mean=(0.3,) * 3, std=(0.4,) * 3)
    weights = rotation_instance_weights(np.random.default_rng(0).uniform(size=(IMAGES, 4)))
    with strategy.scope():
        keras.utils.set_random_seed(0)
        if name:
            backbone = create_backbone(
                name, (size, size, 3), ["pool"], synchronized=strategy.num_replicas_in_sync > 1
            )
            keras.utils.set_random_seed(0)  # a copy of the network has drawn weights, too
        else:
            backbone = resnet_cifar(8, (size, size, 3), ["pool"], width=4, synchronized=True)
        model = RotationDecoupling(
            backbone,
            IMAGES,
            rotation_task=RotationTask(
                "cosine", LDAMLoss(effective_rotation_counts(weights)), True, view_margins=(0.2, 0.1)
            ),
            instance_task=InstanceTask(num_negatives=K, temperature=0.5),
        )
        model.set_instance_weights(weights)
        model.instance_weighting.assign(1.0)
        model.rotation_loss.reweight(0.99)
        model.compile(CoupledSGD(0.01, 0.9))
        model.optimizer.build(model.trainable_variables)

    def make(share):
        schedule = data.Schedule(np.arange(len(source)), 0, BATCH, epochs, share=share)
        return data.training_dataset(source, preprocessing, schedule, num_negatives=K)

    batches = distribution.distribute_dataset(strategy, make)
    with distribution.keras_workarounds(strategy):
        history = model.fit(batches, epochs=epochs, steps_per_epoch=IMAGES // BATCH, verbose=0).history
    banks = [bank.numpy() for bank in strategy.experimental_local_results(model.memory_bank.rows.value)]
    normalizers = [z.numpy() for z in strategy.experimental_local_results(model.memory_bank.normalizer.value)]
    if name:
        weights = {f"weight{number:03}": value for number, value in enumerate(model.backbone.get_weights())}
    else:
        weights = {"kernel": model.backbone.get_layer("conv1_conv").kernel.numpy()}
    return {"banks": banks, "normalizers": normalizers, **weights, **history}


def nested_network(input_shape):
    """One whose batch norms are in a model and in a layer within it."""
    import keras

    @keras.saving.register_keras_serializable(package="tests")
    class Normalized(keras.layers.Layer):
        def __init__(self, filters, **kwargs):
            super().__init__(**kwargs)
            self.filters = filters
            self.convolution = keras.layers.Conv2D(filters, 3, 2, use_bias=False)
            self.norm = keras.layers.BatchNormalization()

        def build(self, shape):
            self.convolution.build(shape)
            self.norm.build(self.convolution.compute_output_shape(shape))

        def call(self, inputs, training=None):
            return keras.ops.relu(self.norm(self.convolution(inputs), training=training))

        def get_config(self):
            return {**super().get_config(), "filters": self.filters}

    inner = keras.Sequential([Normalized(4), keras.layers.BatchNormalization()])
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, Normalized(8)(inner(inputs)), name="nested")


if __name__ == "__main__":
    main(*sys.argv[1:])
