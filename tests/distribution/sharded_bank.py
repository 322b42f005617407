"""Uses and trains a sharded memory bank in a process of its own; writes what it did for the tests to check.

Run as `python -m tests.distribution.sharded_bank FOLDER mirrored|multi_worker [RESTORE_STEP]`. With a step it
only restores that checkpoint of FOLDER and writes the shares.
"""

import sys
from pathlib import Path

import numpy as np

from rfd_tf import distribution

N, D, BATCH, K, STEPS = 13, 4, 4, 50_000, 5  # N odd, so that one share is larger
NEGATIVES = 8


def first_rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, D))


def shares_of(bank) -> dict[str, np.ndarray]:
    return {f"share{replica}": share.numpy() for replica, share in bank.rows.shares().items()}


def set_rows(bank, table: np.ndarray) -> None:
    for replica, share in bank.rows.shares().items():
        values = share.numpy()
        values[: bank.rows.kept(replica)] = table[replica :: bank.rows.num_replicas]
        share.assign(values)


def batches(first: int = 0, count: int = 2):
    """Random batches of `count` replicas from the `first` on; each batch is dealt to two."""
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        index = rng.permutation(N)[:BATCH]
        images = rng.uniform(-1, 1, size=(BATCH, 16, 16, 3))
        negatives = rng.integers(0, N, (BATCH, NEGATIVES))
        for replica in range(first, first + count):
            part = slice(replica * BATCH // 2, (replica + 1) * BATCH // 2)
            yield {"image": images[part], "index": index[part], "negatives": negatives[part]}


def model_of(bank: str):
    import keras

    from rfd_tf.models import InstanceTask, RotationDecoupling, resnet_cifar
    from rfd_tf.optimizers import CoupledSGD

    keras.utils.set_random_seed(0)
    backbone = resnet_cifar(8, (16, 16, 3), ["pool"], width=4, synchronized=True)
    model = RotationDecoupling(
        backbone,
        N,
        instance_task=InstanceTask("softmax", NEGATIVES, 0.5, embedding_dim=D, bank=bank),
        loss_weights=(1, 1, 0),
    )
    model.compile(CoupledSGD(0.01, 0.9))
    model.optimizer.build(model.trainable_variables)
    return model


def largest_tensor(strategy, num_instances: int, sharded: bool) -> int:
    """Numbers of the largest tensor that a step on such a bank makes, what replicas exchange included."""
    import tensorflow as tf

    from rfd_tf.layers import MemoryBank

    with strategy.scope():
        bank = MemoryBank(num_instances, D, sharded=sharded)
        bank.build()

    @tf.function
    def step():
        def of_replica():
            index = tf.constant([[3, 70_000, 12]])
            similarities = bank.contrast(tf.ones((1, D), tf.float64), index, index[:, 0])
            bank.update(tf.ones((1, D), tf.float64), index[:, 0])
            return bank.normalizer_of(similarities)

        return strategy.run(of_replica)

    graph = step.get_concrete_function().graph
    handles = {id(part.handle) for part in strategy.experimental_local_results(bank.rows.value)}
    inner = [inner for outer, inner in graph.captures if id(outer) in handles]
    kinds = {operation.type for handle in inner for operation in handle.consumers()}
    assert kinds == {"ResourceGather", "ResourceScatterUpdate"}, kinds
    shapes = [output.shape for operation in graph.get_operations() for output in operation.outputs]
    return max(shape.num_elements() or 0 for shape in shapes if shape.is_fully_defined())


def in_double_precision() -> None:
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


def main(folder: Path, strategy_name: str, restored_step: int = 0) -> None:
    strategy = distribution.create_strategy(strategy_name, 2 if strategy_name == "mirrored" else 0)
    worker = distribution.worker_index(strategy)
    in_double_precision()

    import tensorflow as tf

    from rfd_tf.callbacks import TrainingCheckpoint
    from rfd_tf.layers import MemoryBank

    mine = folder / f"worker-{worker}" if worker else folder
    with strategy.scope():
        model = model_of("sharded")
        bank = MemoryBank(N, D, temperature=0.5, momentum=0.25, sharded=True)
        bank.build()
    checkpoint = TrainingCheckpoint(mine, STEPS, shared_directories=[folder, *folder.glob("worker-*")])
    if restored_step:
        checkpoint.restore(model, restored_step)
        np.savez(mine / "restored.npz", **shares_of(model.memory_bank))
        return

    found = {f"drawn_{name}": share for name, share in shares_of(bank).items()}
    set_rows(bank, first_rows())
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(BATCH, D))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    index, negatives = rng.permutation(N)[:BATCH], rng.integers(0, N, (BATCH, K))

    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        part = slice(replica * BATCH // 2, (replica + 1) * BATCH // 2)
        own, rows = tf.constant(embeddings)[part], tf.constant(index)[part]
        similarities = bank.contrast(own, tf.constant(negatives)[part], rows)
        bank.update(own, rows)
        return similarities

    similarities = strategy.experimental_local_results(strategy.run(tf.function(step)))
    for replica, values in zip(bank.rows.shares(), similarities, strict=True):
        found[f"similarities{replica}"] = values.numpy()
    found |= {f"updated_{name}": share for name, share in shares_of(bank).items()}
    found |= {
        "sample": bank.sample(6),
        "largest_tensors": [largest_tensor(strategy, 1_000_000, sharded) for sharded in (False, True)],
    }

    set_rows(model.memory_bank, first_rows())
    of_worker = (worker, 1) if strategy_name == "multi_worker" else (0, 2)

    def of_context(context):
        signature = {
            "image": tf.TensorSpec((BATCH // 2, 16, 16, 3), tf.float64),
            "index": tf.TensorSpec((BATCH // 2,), tf.int64),
            "negatives": tf.TensorSpec((BATCH // 2, NEGATIVES), tf.int64),
        }
        return tf.data.Dataset.from_generator(lambda: batches(*of_worker), output_signature=signature)

    dataset = strategy.distribute_datasets_from_function(of_context)
    with distribution.keras_workarounds(strategy):
        model.fit(dataset, epochs=1, steps_per_epoch=STEPS, verbose=0, callbacks=[checkpoint])
    found |= {f"trained_{name}": share for name, share in shares_of(model.memory_bank).items()}
    np.savez(mine / "found.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
