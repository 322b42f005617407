"""Cost of the memory bank per step, by its size: read of B x (1 + K) rows, normalizer, loss, in-place update.

    python benchmarks/memory_bank.py [--rounds=15]

The sizes take turns within each round, so that a slow moment of the machine hits all of them. Prints the
median and the range of the step time for each size, its ratio to the smallest, and each bank's memory.
"""

import argparse
import statistics
import time

SIZES = (10_000, 100_000, 1_281_167)
BATCH, NEGATIVES, STEPS = 16, 4096, 5


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


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
    rounds = parser.parse_args().rounds
    import tensorflow as tf

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
    smallest = statistics.median(seconds[SIZES[0]])
    print(f"{'rows':>10} {'median ms':>10} {'range ms':>15} {'ratio':>6} {'memory MB':>10} {'table MB':>9}")
    for size, values in seconds.items():
        median, spread = statistics.median(values), f"{min(values) * 1e3:.1f} - {max(values) * 1e3:.1f}"
        table = size * 128 * 4 / 1e6
        print(
            f"{size:>10} {median * 1e3:>10.1f} {spread:>15} {median / smallest:>6.2f} "
            f"{memory[size] / 1e6:>10.0f} {table:>9.0f}"
        )


if __name__ == "__main__":
    main()
