"""Readers of foreign bytes under fire: many broken inputs, and what may come of them."""

import dataclasses
import random
import resource
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.faults.guard import Guard, Hang, Misdeed
from tests.faults.mutations import mutated

MOST_FINDINGS = 10


@dataclasses.dataclass(frozen=True)
class Reader:
    """Something that reads bytes from elsewhere.

    Attributes:
        seeds: makes inputs in a folder, to be broken; the first is a good one.
        read: reads a file.
        expected: what it may raise, by its documentation.
        ending: of the file's name.
        tokens: of the format, to be put anywhere.
        structured: makes a hypothesis strategy of inputs (bytes) of the seeds, for half of the inputs.
        frameworks: whether TensorFlow is at work, whose thread pools take address space.
        seconds: of processor time for one input.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    expected: tuple[type[Exception], ...]
    ending: str = ""
    tokens: tuple[bytes, ...] = ()
    structured: Callable[[list[bytes]], object] | None = None
    frameworks: bool = False
    seconds: float = 10.0

    @property
    def memory(self) -> int:
        """Bytes that reading one small input may take."""
        return (6 << 30) if self.frameworks else (1 << 30)


@dataclasses.dataclass
class Outcome:
    """What came of the inputs.

    Attributes:
        inputs: that were read.
        accepted: of them, without an error.
        findings: what must not happen, once for each place in the code, with the input.
        swelled: bytes by which the largest resident size of the process grew.
    """

    inputs: int = 0
    accepted: int = 0
    findings: list[dict] = dataclasses.field(default_factory=list)
    swelled: int = 0


def fuzz(reader: Reader, count: int, seed: int, folder: Path) -> Outcome:
    """Read `count` broken inputs in this process, which is good for nothing else afterwards.

    The file `input` in `folder` keeps the last one, should the process not survive it.
    """
    tempfile.tempdir = str(folder)  # Keras unpacks archives
    seeds = reader.seeds(folder)
    path = folder / f"input{reader.ending}"
    path.write_bytes(seeds[0])
    reader.read(path)  # loads what reading needs, and shows that a good input is read
    guard = Guard(folder, reader.seconds, reader.memory)
    outcome, before = Outcome(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trial = _Trial(reader, path, guard, outcome)
    structured = count // 2 if reader.structured else 0
    random_ = random.Random(seed)
    for content in seeds:
        trial(content)
    for _ in range(count - structured - len(seeds)):
        trial(mutated(seeds, reader.tokens, random_))
    if structured:
        _by_hypothesis(reader.structured(seeds), trial, structured, seed)
    outcome.swelled = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return outcome


def _by_hypothesis(strategy, trial: Callable[[bytes], None], count: int, seed: int) -> None:
    import hypothesis

    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.seed(seed)
    @hypothesis.given(strategy)
    def run(content):
        trial(content)

    done = trial.outcome.inputs
    run()
    while trial.outcome.inputs - done < count:  # hypothesis ends early where it thinks it has seen all
        before = trial.outcome.inputs
        seed += 1
        hypothesis.seed(seed)(run)()
        if trial.outcome.inputs == before:
            break


class _Trial:
    """One input, one verdict."""

    def __init__(self, reader: Reader, path: Path, guard: Guard, outcome: Outcome):
        self.reader, self.path, self.guard, self.outcome = reader, path, guard, outcome
        self._places: set[str] = set()

    def __call__(self, content: bytes) -> None:
        self.path.write_bytes(content)
        self.outcome.inputs += 1
        try:
            with self.guard.armed():
                self.reader.read(self.path)
            self.outcome.accepted += 1
        except self.reader.expected:
            pass
        except (Exception, Misdeed, Hang) as error:
            self._note(error, content)

    def _note(self, error: BaseException, content: bytes) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} at {frames[-1].filename}:{frames[-1].lineno}"
        if place not in self._places and len(self._places) < MOST_FINDINGS:
            self._places.add(place)
            lines = "".join(traceback.format_exception(error)[-8:])
            self.outcome.findings.append({"place": place, "input": content.hex(), "traceback": lines[-3000:]})
