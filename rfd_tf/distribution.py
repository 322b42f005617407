"""Strategies from a config, what replicas exchange, and work-arounds for Keras under them.

The functions that replicas call run under any Keras backend: without a `tf.distribute` strategy there is one
replica, and they return their argument.

A file of layer 0, so that losses and layers can talk to the other replicas; it imports nothing of ours.
"""

import keras
from keras import ops


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
