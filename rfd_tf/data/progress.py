"""Log lines for long passes."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from absl import logging

Item = TypeVar("Item")


def logged(items: Iterable[Item], total: int, what: str, seconds: float = 30.0) -> Iterator[Item]:
    """`items` unchanged, with a log line `what: 1200 of 5000 (40/s)` every `seconds`."""
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= seconds:
            logging.info("%s: %d of %d (%.0f/s)", what, count, total, count / (now - start))
            last = now
