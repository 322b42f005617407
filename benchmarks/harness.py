"""Candidates measured in turn, each in a process of its own: none disturbs another, all see the same machine.

A candidate is a function without arguments (`functools.partial` gives it some) that prepares what it needs
and returns a step: a function without arguments, which is timed. Both are sent to another process, so they
are defined at the top of a module. Within a round every candidate takes its turn, so that a slow moment hits
all; the others and the processes that they started are suspended meanwhile, so that none prepares work ahead
or keeps its threads spinning at another's expense.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import resource
import signal
import statistics
import time
from collections.abc import Callable, Mapping

ROUNDS = 9
LEAST_ROUNDS = 7
THREADS = 2  # of each candidate's mathematics
ANSWER_SECONDS = 240  # without an answer for so long, a candidate has failed

Setup = Callable[[], Callable[[], object]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one candidate.

    Attributes:
        seconds: of a step, one value for each round, the mean over the round's steps.
        first: what the first step, which is not timed, returned.
        memory: peak resident bytes of its process.
    """

    seconds: tuple[float, ...]
    first: object
    memory: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def per_second(self, count: float) -> dict[str, float | int]:
        """`count` over a step's seconds: median, least and most of the rounds."""
        rates = sorted(count / seconds for seconds in self.seconds)
        return spread(rates)


def spread(values) -> dict[str, float | int]:
    """Median, least, most and number of some figures, to four digits."""
    low, high = min(values), max(values)
    figures = {"median": statistics.median(values), "low": low, "high": high}
    return {name: float(f"{value:.4g}") for name, value in figures.items()} | {"rounds": len(values)}


def measure(
    candidates: Mapping[str, Setup],
    *,
    rounds: int = ROUNDS,
    steps: int = 1,
    warm: int = 1,
    settle: int = 0,
    limit_seconds: float = 150,
) -> dict[str, Measured]:
    """Time the candidates in turn.

    Args:
        candidates: set-up functions by name.
        rounds: turns of each; fewer, `LEAST_ROUNDS` at least, where the time is up.
        steps: within a turn.
        warm: steps before the first turn.
        settle: steps at the beginning of each turn that are not timed, until what was prepared between the
            turns is used up.
        limit_seconds: after which no round begins that is not needed.
    """
    begin = time.monotonic()
    workers = {name: _Worker(name, setup) for name, setup in candidates.items()}
    try:
        first = {name: worker.warm(warm) for name, worker in workers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(max(rounds, LEAST_ROUNDS)):
            if number >= LEAST_ROUNDS and time.monotonic() - begin > limit_seconds:
                break
            for name, worker in workers.items():
                worker.warm(settle)
                seconds[name].append(worker.ask(steps))
        return {
            name: Measured(tuple(seconds[name]), first[name], worker.ask("memory"))
            for name, worker in workers.items()
        }
    finally:
        for worker in workers.values():
            worker.stop()


class _Worker:
    """A process that steps when it is asked to, and is suspended in between."""

    def __init__(self, name: str, setup: Setup):
        self.name = name
        self.group: int | None = None
        context = multiprocessing.get_context("spawn")
        self.connection, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, setup), daemon=False)
        self.process.start()
        end.close()

    def warm(self, steps: int):
        return self.ask(("warm", steps))

    def ask(self, what):
        self._signal(signal.SIGCONT)
        try:
            return self._answer(what)
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        """To the process and those that it started, which are a group once it has answered."""
        if self.group is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, number)

    def _answer(self, what):
        try:
            self.connection.send(what)
            if not self.connection.poll(ANSWER_SECONDS):
                raise TimeoutError(f"{self.name} gave no answer for {ANSWER_SECONDS} seconds")
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"{self.name} ended; its error is above") from None
        self.group = self.process.pid
        return answer

    def stop(self) -> None:
        self._signal(signal.SIGCONT)
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _serve(connection, setup: Setup) -> None:
    os.setpgrp()
    step = setup()
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        match asked:
            case ("warm", int() as count):
                results = [step() for _ in range(count)]
                connection.send(results[0] if results else None)
            case int() as count:
                begin = time.perf_counter()
                for _ in range(count):
                    step()
                connection.send((time.perf_counter() - begin) / count)
            case "memory":
                connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def resident_bytes() -> int:
    """Of this process, now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def quiet_tensorflow(threads: int = THREADS):
    """TensorFlow with that many threads, without its news of the machine."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    return tf


def plain_torch(threads: int = THREADS):
    """PyTorch with that many threads."""
    import torch

    torch.set_num_threads(threads)
    return torch


def keras_stepper(model, dataset, steps: int) -> Callable[[], object]:
    """A function that takes that many training steps as `model.fit` does, from one batch to the next."""
    batches = iter(dataset)
    model.make_train_function()

    def step():
        for _ in range(steps):
            logs = model.train_function(batches)
        return {name: float(value) for name, value in logs.items()}

    return step
