"""Asking again what failed for the moment."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from rfd_tf.serving.errors import BadInputError, ServingError, TransientServingError

Answer = TypeVar("Answer")


class Retries:
    """Repeats a request that failed for a reason that may pass, after growing pauses.

    The pause before try n + 1 is drawn from [0.5, 1] * min(backoff * 2**(n - 1), max_backoff), so that
    clients that failed together do not come back together.

    Args:
        retries: further tries after the first, at least 0.
        backoff: the first pause in seconds, at least 0.
        max_backoff: no pause is longer; seconds.
        seed: of the pauses; None for a different one each time.
        sleep, clock: for tests.
    """

    def __init__(
        self,
        retries: int = 4,
        backoff: float = 0.2,
        max_backoff: float = 10.0,
        *,
        seed: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        for name, value in (("retries", retries), ("backoff", backoff), ("max_backoff", max_backoff)):
            if not value >= 0:
                raise BadInputError(f"`{name}` must not be negative. Received: {name}={value}")
        self.retries, self.backoff, self.max_backoff = int(retries), backoff, max_backoff
        self.clock = clock
        self._sleep = sleep
        self._random = random.Random(seed)

    def run(self, action: Callable[[float], Answer], timeout: float, end: float | None, whose: str) -> Answer:
        """`action(seconds)`, repeated while it raises TransientServingError.

        Args:
            action: does one try within so many seconds.
            timeout: of one try, seconds.
            end: when the whole must be done, on `clock`; None for no such moment.
            whose: the server's address, for the message.

        Raises:
            ServingError: what the last try raised, with the number of tries; or that the time is over.
        """
        for tries in range(1, self.retries + 2):
            try:
                return action(self._seconds(timeout, end, whose))
            except TransientServingError as error:
                pause = min(self.backoff * 2 ** (tries - 1), self.max_backoff) * self._random.uniform(0.5, 1)
                times = f"{tries} tries" if tries > 1 else "1 try"
                if tries > self.retries:
                    raise ServingError(f"{error} (after {times})") from error
                if end is not None and self.clock() + pause >= end:
                    raise ServingError(f"{error} (after {times}; no time is left for more)") from error
            self._sleep(pause)
        raise AssertionError("unreachable")

    def _seconds(self, timeout: float, end: float | None, whose: str) -> float:
        if end is None:
            return timeout
        left = end - self.clock()
        if left <= 0:
            raise ServingError(f"{whose}: the total time (`deadline`) is over")
        return min(timeout, left)
