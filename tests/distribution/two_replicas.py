"""Trains the compound model in a process of its own, on one device or two; writes losses and banks.

Run as `python -m tests.distribution.two_replicas OUT.npz one_device|mirrored|multi_worker [WITHOUT]`, where
WITHOUT names a work-around of `rfd_tf.distribution` to leave out.
"""

import contextlib
import sys

import numpy as np

from rfd_tf import data, distribution

BATCH, EPOCHS, K = 8, 2, 8
IMAGES = 40


def main(path: str, strategy_name: str, workaround: str = "") -> None:
    if workaround:  # leave it out
        assert hasattr(distribution, workaround)
        setattr(distribution, workaround, contextlib.nullcontext)
    strategy = distribution.create_strategy(strategy_name, 2 if strategy_name == "mirrored" else 0)

    import keras

    # Doubles, so that rounding does not grow into other ReLU and max-pool decisions within the ten steps.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")

    from rfd_tf.imbalance import effective_rotation_counts, rotation_instance_weights
    from rfd_tf.losses import LDAMLoss
    from rfd_tf.models import RotationDecoupling, resnet_cifar
    from rfd_tf.optimizers import CoupledSGD

    source = data.Subset(data.digits("train"), np.arange(IMAGES))
    preprocessing = data.Preprocessing(16, "resize", 16, flip=False, mean=(0.3,) * 3, std=(0.4,) * 3)
    weights = rotation_instance_weights(np.random.default_rng(0).uniform(size=(IMAGES, 4)))
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = RotationDecoupling(
            resnet_cifar(8, (16, 16, 3), ["pool"], width=4, synchronized=True),
            IMAGES,
            num_negatives=K,
            temperature=0.5,
            rotation_head="cosine",
            rotation_loss=LDAMLoss(effective_rotation_counts(weights)),
            use_instance_weights=True,
            view_margins=(0.2, 0.1),
        )
        model.set_instance_weights(weights)
        model.instance_weighting.assign(1.0)
        model.rotation_loss.reweight(0.99)
        model.compile(CoupledSGD(0.01, 0.9))
        model.optimizer.build(model.trainable_variables)

    def make(share):
        schedule = data.Schedule(np.arange(len(source)), 0, BATCH, EPOCHS, share=share)
        return data.training_dataset(source, preprocessing, schedule, num_negatives=K)

    batches = distribution.distribute_dataset(strategy, make)
    with distribution.keras_workarounds(strategy):
        history = model.fit(batches, epochs=EPOCHS, steps_per_epoch=IMAGES // BATCH, verbose=0).history
    banks = [bank.numpy() for bank in strategy.experimental_local_results(model.memory_bank.rows.value)]
    normalizers = [z.numpy() for z in strategy.experimental_local_results(model.memory_bank.normalizer.value)]
    kernel = model.backbone.get_layer("conv1_conv").kernel.numpy()
    np.savez(path, banks=banks, normalizers=normalizers, kernel=kernel, **history)


if __name__ == "__main__":
    main(*sys.argv[1:])
