"""Proposals of many pictures, in parallel, kept on disk."""

import concurrent.futures
import json
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from rfd_tf.atomic import atomic_file, write_text
from rfd_tf.progress_bar import progress_bar
from rfd_tf.proposals.selective_search import ProposalError, SelectiveSearch
from rfd_tf.stop_signals import Stopped, StopSignals, end_with_parent

_SETTINGS = "settings.json"


class ProposalsStopped(Stopped):
    """Pictures without proposals remain."""


def propose(
    paths: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    search: SelectiveSearch | None = None,
    processes: int = 0,
) -> Path:
    """Search pictures for proposals, with a progress bar; pictures that are done already are passed over.

    Ctrl-C or SIGTERM lets the pictures at hand be finished; the same call goes on.

    Args:
        paths: the pictures. Their names without endings must differ.
        folder: keeps `FINGERPRINT/NAME.npy`, one file a picture, by the settings of the search.
        search: the settings; those of `SelectiveSearch()` by default.
        processes: pictures at once; 0 for one a core.

    Returns:
        The folder of the files, for `load_proposals`.

    Raises:
        ProposalError: on a picture that cannot be decoded, or when a process that searches is killed; what
            is done stays.
        ProposalsStopped: on SIGTERM or Ctrl-C, after the pictures at hand.
        ValueError: if two pictures have the same name.
    """
    search = search or SelectiveSearch()
    names = [Path(path).stem for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"Two pictures are called {max(names, key=names.count)!r}; proposals go by names")
    target = Path(folder) / search.fingerprint()
    pending = [path for path, name in zip(paths, names, strict=True) if not _file(target, name).exists()]
    if not (target / _SETTINGS).exists():
        write_text(target / _SETTINGS, json.dumps(vars(search)))
    if not pending:
        return target
    workers = min(processes or os.cpu_count() or 1, len(pending))
    # Spawned, since a process that runs TensorFlow must not be forked.
    context = multiprocessing.get_context("spawn")
    with (
        StopSignals() as signals,
        concurrent.futures.ProcessPoolExecutor(workers, context, _obey_parent) as pool,
        progress_bar("Proposals", len(paths), done=len(paths) - len(pending)) as bar,
    ):
        running = {pool.submit(_search, search, path, target) for path in pending}
        try:
            while running:
                done, running = concurrent.futures.wait(
                    running, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    _finish(future)
                    bar.update()
                if signals.received is not None:
                    break
        finally:
            pool.shutdown(cancel_futures=True)
    if signals.received is not None:
        done = sum(_file(target, name).exists() for name in names)
        raise ProposalsStopped(signals.received, f"{done} of {len(names)} pictures have proposals")
    return target


def _finish(future: concurrent.futures.Future) -> None:
    try:
        future.result()
    except BrokenProcessPool:
        raise ProposalError(
            "A process that searched a picture was ended from outside, perhaps for want of memory: try fewer "
            "`processes`. What is done stays"
        ) from None


def load_proposals(folder: str | os.PathLike, name: str) -> np.ndarray:
    """The proposals of the picture called `name`, float32 [P, 4].

    Raises:
        FileNotFoundError: if there are none.
        ProposalError: if the file is damaged.
    """
    path = _file(Path(folder), name)
    try:
        # A map of the file: what it announces beyond its end is an error, and not an array of zeros.
        boxes = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise FileNotFoundError(f"No proposals at {path}") from None
    except Exception as error:  # NumPy's reader of headers raises whatever the bytes lead it to
        raise ProposalError(f"{path} cannot be read: {error}") from None
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype != np.float32:
        raise ProposalError(f"{path} holds no boxes, but {boxes.dtype} of shape {boxes.shape}")
    return np.array(boxes)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _search(search: SelectiveSearch, path: str | os.PathLike, target: Path) -> None:
    boxes = search(path)
    with atomic_file(_file(target, Path(path).stem)) as file:
        np.save(file, boxes)


def _obey_parent() -> None:
    """In a worker: the parent decides what a signal to the whole group means, and no worker outlives it."""
    end_with_parent()
    for number in StopSignals.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
