"""Strategies from a config, what replicas exchange, and work-arounds for Keras under them.

The functions that replicas call run under any Keras backend: without a `tf.distribute` strategy there is one
replica, and they return their argument.

A file of layer 0, so that losses and layers can talk to the other replicas; it imports nothing of ours.
"""

import contextlib
import os
from collections.abc import Callable

import keras
from keras import ops

STRATEGIES = ("one_device", "mirrored", "multi_worker")


def create_strategy(name: str, logical_cpus: int = 0):
    """A `tf.distribute.Strategy`. Call it before anything else uses TensorFlow.

    Args:
        name: `one_device`; `mirrored`, all GPUs of this machine; or `multi_worker`, the machines of the
            environment variable TF_CONFIG, one process on each.
        logical_cpus: for `mirrored` on a machine without GPUs: split the CPU into so many devices.

    Raises:
        ValueError: on an unknown name, `logical_cpus` without `mirrored`, `multi_worker` without TF_CONFIG.
    """
    import tensorflow as tf

    if name not in STRATEGIES:
        raise ValueError(f"`strategy` must be one of {STRATEGIES}. Received: {name!r}")
    if logical_cpus and name != "mirrored":
        raise ValueError(f"`logical_cpus` is for the strategy mirrored. Received: strategy={name!r}")
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        if not os.environ.get("TF_CONFIG"):
            raise ValueError(
                "The strategy multi_worker reads the cluster from the environment variable TF_CONFIG, which "
                'is not set. Example: {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, '
                '"task": {"type": "worker", "index": 0}}'
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if not logical_cpus:
        return tf.distribute.MirroredStrategy()
    split_cpu(logical_cpus)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(logical_cpus)])


def split_cpu(logical_cpus: int) -> None:
    """Make TensorFlow see the CPU as so many devices. Raises RuntimeError once TensorFlow has started."""
    import tensorflow as tf

    device = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration() for _ in range(logical_cpus)]
    tf.config.set_logical_device_configuration(device, logical)


def worker_index(strategy) -> int:
    """Number of this process among the workers; 0 is the one that writes logs and results."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return 0
    if resolver.task_type == "chief":
        return 0
    return resolver.task_id + ("chief" in resolver.cluster_spec().jobs)


def distribute_dataset(strategy, make_dataset: Callable):
    """`make_dataset(num_workers, worker_index, replicas_per_worker)` for this strategy's `model.fit`.

    The function gives each worker's share in batches for one replica; nothing is sharded or re-batched behind
    its back.
    """
    if strategy.num_replicas_in_sync == 1:
        return make_dataset(1, 0, 1)

    def of_context(context):
        replicas_per_worker = context.num_replicas_in_sync // context.num_input_pipelines
        return make_dataset(context.num_input_pipelines, context.input_pipeline_id, replicas_per_worker)

    return strategy.distribute_datasets_from_function(of_context)


def smallest_over_workers(strategy, value: int) -> int:
    """The smallest of every worker's `value`; all workers must call it."""
    if strategy.num_replicas_in_sync == 1:
        return value
    import tensorflow as tf

    @tf.function
    def gathered():
        return strategy.run(lambda: gather_over_replicas(tf.constant([value], tf.int64)))

    return int(tf.reduce_min(strategy.experimental_local_results(gathered())[0]))


def num_replicas() -> int:
    """Replicas that train in step; 1 outside a `tf.distribute` strategy and on other backends."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _replica_context():
    """TensorFlow's replica context where there are several replicas, else None."""
    if num_replicas() == 1:
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()  # None in cross-replica context: nothing to exchange


def sum_over_replicas(value):
    """Sum of every replica's `value`, without a gradient; the same on all of them."""
    context = _replica_context()
    value = ops.stop_gradient(value)
    return value if context is None else context.all_reduce("SUM", value)


def gather_over_replicas(rows):
    """Every replica's `rows` [b, ...] as [replicas * b, ...], in replica order, the same on all; no gradient.

    An all-reduce of a buffer in which each replica fills its own slot: `all_gather` fails in a Keras train
    step under MultiWorkerMirroredStrategy ("destinations can not be empty").
    """
    context = _replica_context()
    rows = ops.stop_gradient(rows)
    if context is None:
        return rows
    import tensorflow as tf

    slot = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=rows.dtype)
    slot = tf.reshape(slot, [-1] + [1] * len(rows.shape))
    buffer = context.all_reduce("SUM", slot * rows[tf.newaxis])
    return tf.reshape(buffer, tf.concat([[-1], tf.shape(rows)[1:]], axis=0))


@contextlib.contextmanager
def keras_workarounds(strategy):
    """Lets `model.fit` run under MultiWorkerMirroredStrategy; does nothing under other strategies.

    The model and its optimizer must have been built under the strategy's scope. As shipped (Keras 3.15):

    1. `_maybe_symbolic_build` feeds a distributed batch to `convert_to_tensor` ("Attempt to convert a value
       (PerReplica..."). All it would do is build a model, which is built already.
    2. `reduce_per_replica` takes the mean of scalar logs over axis 0 ("Invalid reduction dimension 0").
       Scalars have no axis: the mean is over replicas alone.

    `tests/test_distribution_workarounds.py` fails as soon as one of them is no longer needed.
    """
    import tensorflow as tf

    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        yield
        return
    from keras.src.backend.tensorflow import trainer

    original_build = trainer.TensorFlowTrainer._maybe_symbolic_build
    original_reduce = trainer.reduce_per_replica

    def reduce_per_replica(values, strategy, reduction):
        if reduction in ("auto", "mean"):
            return keras.tree.map_structure(lambda v: strategy.reduce("MEAN", v, axis=None), values)
        return original_reduce(values, strategy, reduction)

    trainer.TensorFlowTrainer._maybe_symbolic_build = lambda self, iterator=None, data_batch=None: None
    trainer.reduce_per_replica = reduce_per_replica
    try:
        yield
    finally:
        trainer.TensorFlowTrainer._maybe_symbolic_build = original_build
        trainer.reduce_per_replica = original_reduce
