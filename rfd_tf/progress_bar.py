"""Progress for people, and for logs."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress_bar(
    description: str,
    total: int,
    items: Iterable | None = None,
    *,
    done: int = 0,
    unit: str = "img",
    **options,
) -> tqdm:
    """A bar on standard error; where that is no terminal, a line twice a minute.

    Args:
        description: what is going on.
        total: how many units there are.
        items: to be iterated over; by default `update` moves the bar.
        done: units that were done before.
        unit: of the progress.
        **options: of `tqdm`.
    """
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        items,
        desc=description,
        total=total,
        initial=done,
        unit=unit,
        mininterval=interval,
        maxinterval=60,
        **options,
    )
