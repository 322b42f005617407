"""Strategies from a config, what replicas exchange, and work-arounds for Keras under them.

The functions that replicas call run under any Keras backend: without a `tf.distribute` strategy there is one
replica, and they return their argument.

A file of layer 0, so that losses and layers can talk to the other replicas; it imports nothing of ours.
"""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
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


@contextlib.contextmanager
def lost_workers_named(strategy):
    """Within, an error of TensorFlow that came of other workers' silence names them, as a `ConnectionError`.

    Workers send each other a sign of life every few seconds; one that is silent for half a minute counts as
    lost, and what waits for it fails.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        if not several_workers(strategy):
            raise
        addresses = worker_addresses(strategy)
        first_worker = "chief" in strategy.cluster_resolver.cluster_spec().jobs
        told = re.findall(r"/job:(chief|worker)/(?:replica:\d+/)?task:(\d+)", error.message)
        lost = {int(task) + (first_worker if job == "worker" else 0) for job, task in told}
        lost -= {worker_index(strategy)}
        if not lost and "CoordinationService" in error.message:
            lost = {0}  # which coordinates
        if not lost:
            raise
        named = ", ".join(addresses[index] for index in sorted(lost))
        raise ConnectionError(
            f"Lost {named}: it failed, which its own log tells, or no longer answers. The same commands on "
            f"all workers continue. ({type(error).__name__})"
        ) from error


def several_workers(strategy) -> bool:
    """Whether a strategy is one of several processes."""
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def worker_addresses(strategy) -> list[str]:
    """`worker 1 (10.0.0.2:2222)` of each worker, as TF_CONFIG has them."""
    cluster = strategy.cluster_resolver.cluster_spec().as_dict()
    addresses = [*cluster.get("chief", []), *cluster.get("worker", [])]
    return [f"worker {index} ({address})" for index, address in enumerate(addresses)]


def unlike_the_first(strategy, rows: np.ndarray) -> str:
    """The workers whose row of `gather_over_workers` is not the first one's, for people; "" for none."""
    unlike = [index for index, row in enumerate(rows) if not np.array_equal(row, rows[0])]
    return ", ".join(worker_addresses(strategy)[index] for index in unlike) if unlike else ""


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of every global batch a worker prepares, for so many replicas.

    Raises:
        ValueError: on a number out of range.
    """

    num_workers: int = 1
    worker_index: int = 0
    replicas_per_worker: int = 1

    def __post_init__(self):
        for name in ("num_workers", "replicas_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {name}={getattr(self, name)}")
        if not 0 <= self.worker_index < self.num_workers:
            raise ValueError(
                f"`worker_index` must be in [0, num_workers={self.num_workers}). "
                f"Received: worker_index={self.worker_index}"
            )

    @property
    def num_replicas(self) -> int:
        """Of all workers."""
        return self.num_workers * self.replicas_per_worker


def distribute_dataset(strategy, make_dataset: Callable[[Share], object]):
    """`make_dataset(share)` for this strategy's `model.fit`.

    The function gives each worker's share in batches for one replica; nothing is sharded or re-batched behind
    its back.
    """
    if strategy.num_replicas_in_sync == 1:
        return make_dataset(Share())

    def of_context(context):
        replicas_per_worker = context.num_replicas_in_sync // context.num_input_pipelines
        return make_dataset(
            Share(context.num_input_pipelines, context.input_pipeline_id, replicas_per_worker)
        )

    return strategy.distribute_datasets_from_function(of_context)


def gather_over_workers(strategy, values: npt.ArrayLike) -> np.ndarray:
    """Every worker's integers, int64 [workers, len(values)]; all workers must call it, in the same order."""
    import tensorflow as tf

    values = np.asarray(values, dtype="int64")
    if not several_workers(strategy):
        return values[np.newaxis]
    with _collective_keys_reused():
        gathered = _gathering(strategy)(tf.constant(values[np.newaxis]))
    by_replica = strategy.experimental_local_results(gathered)[0].numpy()
    replicas_per_worker = len(strategy.extended.worker_devices)
    return by_replica[::replicas_per_worker]


@functools.cache
def _gathering(strategy):
    import tensorflow as tf

    return tf.function(lambda rows: strategy.run(gather_over_replicas, args=(rows,)))


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
    """Every replica's `rows` [b, ...] as [replicas * b, ...], the same on all of them; no gradient."""
    context = _replica_context()
    rows = ops.stop_gradient(rows)
    return rows if context is None else context.all_gather(rows, axis=0)


def this_replica() -> int:
    """Number of the replica that runs this, a constant of its graph; 0 outside a replica's step."""
    context = _replica_context()
    if context is None:
        return 0
    import tensorflow as tf

    return int(tf.get_static_value(context.replica_id_in_sync_group))


def own_part(variable):
    """The `tf.Variable` that the replica which runs this holds of a Keras variable.

    Rows of it can be read and written in place; a mirrored variable is read as a whole, and then copied by
    what writes to it. The variable's value on other backends, and outside a replica's step.
    """
    if _replica_context() is None:
        return variable.value
    parts = variable.value.distribute_strategy.experimental_local_results(variable.value)
    return parts[this_replica() % len(parts)]


class DealtVariable(keras.Variable):
    """A table [N, D] of which each of R replicas keeps a share: row i is row i // R of replica i mod R.

    Shares are of one size, ceil(N / R); where R does not divide N the last row of some is unused. The table
    cannot be read as a whole. On one replica it is like any other variable. It is not trained.

    Args:
        num_rows: N.
        width: D.
        dtype: of the numbers.
        draw: (replica, shape, dtype) -> what the share of that replica begins with.
        name: of the variable.

    Make it under the strategy's scope.
    """

    def __init__(self, num_rows: int, width: int, dtype: str, draw: Callable, name: str):
        self.num_rows = num_rows
        self.num_replicas = num_replicas()
        many = {"aggregation": "none", "synchronization": "on_read"} if self.num_replicas > 1 else {}
        super().__init__(
            lambda shape, dtype: draw(0, shape, dtype),
            shape=(-(-num_rows // self.num_replicas), width),
            dtype=dtype,
            trainable=False,
            autocast=False,
            name=name,
            **many,
        )
        for replica, share in self.shares().items():
            if replica:
                share.assign(draw(replica, self.shape, dtype))

    def shares(self) -> dict[int, Any]:
        """Replica -> its share, a `tf.Variable`, for those of this process; on one replica the whole."""
        if self.num_replicas == 1:
            return {0: self}
        strategy = self.value.distribute_strategy
        shares = strategy.experimental_local_results(self.value)
        first = worker_index(strategy) * len(shares)
        return {first + i: share for i, share in enumerate(shares)}

    def own_share(self) -> tuple[int, Any]:
        """(replica, its share) of the replica that runs this; outside its step of this process's first."""
        shares = self.shares()
        replica = this_replica() if _replica_context() else next(iter(shares))
        return replica, shares[replica]

    def kept(self, replica: int) -> int:
        """How many of the N rows a replica keeps."""
        return (self.num_rows - replica - 1) // self.num_replicas + 1


@contextlib.contextmanager
def keras_workarounds(strategy):
    """Lets `model.fit` run, and run for long, on several replicas and workers; else does nothing.

    The model and its optimizer must have been built under the strategy's scope. `tests/distribution` has a
    test of each work-around that fails as soon as Keras no longer needs it.
    """
    with contextlib.ExitStack() as stack:
        if strategy.num_replicas_in_sync > 1:
            stack.enter_context(_no_symbolic_build())
        if several_workers(strategy):
            stack.enter_context(_scalar_logs_averaged())
            stack.enter_context(_collective_keys_reused())
        yield


@contextlib.contextmanager
def _collective_keys_reused():
    """TensorFlow 2.21 numbers every execution of every collective operation and keeps 1.7 KB for each number.

    That is some 120 KB a step of a ResNet-8 with synchronised batch norm, for as long as the process lives.
    Within, an operation is numbered when it is traced and keeps its number. Workers must then trace alike, as
    they do where all run one program.
    """
    from tensorflow.python.distribute import cross_device_utils

    launcher = cross_device_utils.CollectiveReplicaLauncher
    before, launcher._prefer_unique_instance_key = launcher._prefer_unique_instance_key, False
    try:
        yield
    finally:
        launcher._prefer_unique_instance_key = before


@contextlib.contextmanager
def _no_symbolic_build():
    """Keras 3.15 takes the mean of the replicas' batches, which may differ in shape ("Inputs to operation
    AddN [...] must have the same size and shape"), and on several workers calls `convert_to_tensor` on them
    ("Attempt to convert a value (PerReplica").

    All that the method would do is to build a model, which is built already.
    """
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    original = TensorFlowTrainer._maybe_symbolic_build
    TensorFlowTrainer._maybe_symbolic_build = lambda self, iterator=None, data_batch=None: None
    try:
        yield
    finally:
        TensorFlowTrainer._maybe_symbolic_build = original


@contextlib.contextmanager
def _scalar_logs_averaged():
    """Keras 3.15 takes the mean of scalar logs over axis 0: "Invalid reduction dimension 0".

    A scalar has no axis; its mean is over the replicas alone.
    """
    from keras.src.backend.tensorflow import trainer

    original = trainer.reduce_per_replica

    def reduce_per_replica(values, strategy, reduction):
        if reduction in ("auto", "mean"):
            return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)
        return original(values, strategy, reduction)

    trainer.reduce_per_replica = reduce_per_replica
    try:
        yield
    finally:
        trainer.reduce_per_replica = original
