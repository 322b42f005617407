"""Cost of the memory bank by its size: of the whole training step, and of the bank's part alone.

    python -m benchmarks.memory_bank [--rounds=15]

The bank's part: read of B x (1 + K) rows, normalizer, loss, in-place update. The whole step is that of
`benchmarks.training_step`. The sizes take turns within each round, so that a slow moment of the machine hits
all of them; what counts is each size's time over the smallest one's in the same round.
"""

import argparse
import functools
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
    rounds = parser.parse_args().rounds
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
