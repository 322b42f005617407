"""One of two workers: a step of many collective operations, again and again.

Run as `python -m tests.distribution.collectives [WITHOUT]` with TF_CONFIG set. Prints by how many bytes the
process grows, with `keras_workarounds` or, given WITHOUT, one of these left out.
"""

import contextlib
import sys

import tensorflow as tf

from benchmarks.harness import resident_bytes
from rfd_tf import distribution

OPERATIONS, SETTLING, STEPS = 40, 100, 600


def main(without: str = "") -> None:
    if without:
        setattr(distribution, without, contextlib.nullcontext)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def replica_step():
        value = tf.ones([4])
        for _ in range(OPERATIONS):
            value = tf.distribute.get_replica_context().all_reduce("SUM", value) / 2
        return value

    step = tf.function(lambda: strategy.run(replica_step))
    with distribution.keras_workarounds(strategy):
        for _ in range(SETTLING):
            step()
        before = resident_bytes()
        for _ in range(STEPS):
            step()
        print("grew by", resident_bytes() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
