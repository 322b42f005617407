"""Cost of the memory bank by its size: of the whole training step, and of the bank's part alone.

    python -m benchmarks.memory_bank [--rounds=15]
    python -m benchmarks.memory_bank --replicas=1,2,4,8 --instances=400000

With `--replicas`: what a bank takes that every replica holds whole, and one that is dealt to them, each in a
process of its own whose CPU stands for so many devices.

The bank's part: read of B x (1 + K) rows, normalizer, loss, in-place update. The whole step is that of
`benchmarks.training_step`. The sizes take turns within each round, so that a slow moment of the machine hits
all of them; what counts is each size's time over the smallest one's in the same round.
"""

import argparse
import functools
import multiprocessing
import statistics
import time

from benchmarks import training_step
from benchmarks.harness import measure, quiet_tensorflow, resident_bytes, spread
from benchmarks.outcome import Row, save

SIZES = (10_000, 100_000, 1_281_167)
BATCH, NEGATIVES, STEPS, GOAL, SPARE_MIB = 16, 4096, 5, 1.1, 100


def stepper(num_instances: int):
    """A compiled step on a bank of this size, and the memory that it took to make and run it once."""
    import tensorflow as tf

    from rfd_tf.layers import MemoryBank
    from rfd_tf.losses import nce_loss

    before = resident_bytes()
    bank = MemoryBank(num_instances)
    bank.build()
    embeddings = tf.math.l2_normalize(tf.random.stateless_normal([BATCH, 128], seed=[0, 0]), axis=1)

    @tf.function
    def step(seed):
        rows = tf.random.stateless_uniform([BATCH, 1 + NEGATIVES], seed, 0, num_instances, tf.int32)
        similarities = bank(embeddings, rows)
        normalizer = bank.normalizer_of(similarities)
        bank.normalizer.assign(normalizer)
        bank.update(embeddings, rows[:, 0])
        return nce_loss(similarities, normalizer, num_instances)

    step(tf.constant([0, 0]))
    return step, resident_bytes() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--replicas", help="numbers of replicas, such as 1,2,4,8")
    parser.add_argument("--instances", type=int, default=400_000, help="rows of the bank, with --replicas")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    if arguments.replicas:
        measure_replicas([int(number) for number in arguments.replicas.split(",")], arguments.instances)
        return
    training, seconds = measure_training()  # first: it has processes of its own, and leaves this one small
    save("memory_bank", training + measure_bank(rounds), {"seconds of the whole steps": seconds})


def measure_bank(rounds: int) -> list[Row]:
    tf = quiet_tensorflow()
    stepper(1000)  # takes the memory that any first step takes
    steppers, memory = {}, {}
    for size in SIZES:
        steppers[size], memory[size] = stepper(size)
    seconds = {size: [] for size in SIZES}
    for number in range(rounds):
        for size, step in steppers.items():
            start = time.perf_counter()
            for turn in range(STEPS):
                step(tf.constant([number, turn]))
            seconds[size].append((time.perf_counter() - start) / STEPS)
    return [row for size in SIZES for row in _rows(size, seconds, memory)]


def measure_replicas(numbers: list[int], num_instances: int) -> None:
    """Print a line for each number of replicas and kind of bank."""
    print(
        f"{num_instances:,} rows of 128 numbers\nreplicas  bank        MiB a replica  MiB in all  ms a step"
    )
    processes = multiprocessing.get_context("spawn")
    for replicas in numbers:
        for sharded in (False, True):
            with processes.Pool(1) as pool:
                share, grown, seconds = pool.apply(of_replicas, (replicas, sharded, num_instances))
            kind = "sharded" if sharded else "replicated"
            mib = f"{share / 2**20:13.1f} {grown / 2**20:11.1f}"
            print(f"{replicas:8}  {kind:10} {mib} {1e3 * seconds:10.1f}", flush=True)


def of_replicas(replicas: int, sharded: bool, num_instances: int) -> tuple[int, int, float]:
    """(bytes that a replica keeps, bytes that the process grew by, median seconds of a step)."""
    tf = quiet_tensorflow()
    from rfd_tf.distribution import create_strategy
    from rfd_tf.layers import MemoryBank

    strategy = create_strategy("mirrored", replicas)
    embeddings = tf.math.l2_normalize(
        tf.random.stateless_normal([BATCH // replicas, 128], seed=[0, 0]), axis=1
    )

    def stepper(size: int):
        with strategy.scope():
            bank = MemoryBank(size, sharded=sharded)
            bank.build()

        @tf.function
        def step(seed):
            def of_replica():
                replica = tf.distribute.get_replica_context().replica_id_in_sync_group
                shape = [BATCH // replicas, NEGATIVES]
                negatives = tf.random.stateless_uniform(shape, seed + replica, 0, size, tf.int32)
                similarities = bank.contrast(embeddings, negatives, negatives[:, 0])
                bank.update(embeddings, negatives[:, 0])
                return bank.normalizer_of(similarities)

            return strategy.run(of_replica)

        step(tf.constant([0, 0]))
        return bank, step

    stepper(1000)  # takes the memory that any first step takes
    before = resident_bytes()
    bank, step = stepper(num_instances)
    grown = resident_bytes() - before
    seconds = []
    for turn in range(15):
        start = time.perf_counter()
        step(tf.constant([1, turn]))
        seconds.append(time.perf_counter() - start)
    return 4 * bank.rows.shape[0] * bank.rows.shape[1], grown, statistics.median(seconds)


def measure_training() -> tuple[list[Row], dict]:
    steps = {str(size): functools.partial(training_step.ours, size) for size in SIZES}
    found = measure(steps, limit_seconds=120)
    seconds = {size: found[str(size)].seconds for size in SIZES}
    rows = []
    for size in SIZES[1:]:
        ratios = _ratios(size, seconds)
        rows.append(
            Row(
                2,
                f"whole training step at N = {size:,} over that at N = {SIZES[0]:,}",
                "times",
                ratios,
                goal=f"{GOAL} times",
                met=ratios["median"] <= GOAL,
                why="see NOTES.md, bank",
            )
        )
    return rows, seconds


def _ratios(size: int, seconds: dict) -> dict:
    return spread([own / first for own, first in zip(seconds[size], seconds[SIZES[0]], strict=True)])


def _rows(size: int, seconds: dict, memory: dict) -> list[Row]:
    spare = (memory[size] - 4 * 128 * size) / 2**20
    return [
        Row(2, f"the bank's part, N = {size:,}", "ms", spread([1e3 * s for s in seconds[size]])),
        Row(2, f"the bank's part over that at N = {SIZES[0]:,}", "times", _ratios(size, seconds)),
        Row(
            2,
            f"memory beyond the bank's {4 * 128 * size / 2**20:.0f} MiB",
            "MiB",
            spread([spare]),
            goal=f"under {SPARE_MIB} MiB",
            met=spare < SPARE_MIB,
            why="see NOTES.md, bank",
        ),
    ]


if __name__ == "__main__":
    main()
