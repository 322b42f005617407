"""Where a run's proposals come from."""

import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rfd_tf.atomic import atomic_file
from rfd_tf.data import Source
from rfd_tf.proposals import ProposalError, SelectiveSearch, load_proposals, propose, read_mat

SOURCES = ("selective_search", "mat")


def find_proposals(config: ConfigDict, source, cache: Path) -> list[np.ndarray]:
    """The proposals of each picture, float32 [P, 4], at most `config.most` of each.

    Args:
        config: the `proposals` of a config; see `configs/detection/base.py`.
        source: pictures with `names` and `annotations` (`data.VocDevkit` and its like).
        cache: the run's folder for what can be made again.

    Raises:
        ProposalError: on files that cannot be read or lack a picture, boxes beyond their picture, or a
            picture without any proposal.
        ProposalsStopped: on SIGTERM or Ctrl-C; the same call goes on.
        ValueError: on fields out of range.
    """
    if config.most < 0:
        raise ValueError(f"`proposals.most` must not be negative. Received: {config.most}")
    if config.source == "selective_search":
        found = _search(config, source, cache)
    elif config.source == "mat":
        found = _read(config, source)
    else:
        raise ValueError(f"`proposals.source` must be one of {SOURCES}. Received: {config.source!r}")
    for name, annotation, boxes in zip(source.names, source.annotations, found, strict=True):
        if not len(boxes):
            raise ProposalError(f"There is no proposal for picture {name}")
        beyond = (boxes[:, 2] >= annotation.width) | (boxes[:, 3] >= annotation.height)
        if beyond.any():
            corners = boxes[beyond.argmax()].tolist()
            raise ProposalError(
                f"A proposal for picture {name} is x1, y1, x2, y2 = {corners}, beyond its "
                f"{annotation.width} x {annotation.height} pixels: is that the right convention?"
            )
    return [boxes[: config.most or None] for boxes in found]


def _search(config: ConfigDict, source, cache: Path) -> list[np.ndarray]:
    folder = Path(config.folder or cache / "proposals")
    search = SelectiveSearch(config.mode, config.min_side)
    target = propose(picture_files(source, cache / "pictures"), folder, search, config.processes)
    return [load_proposals(target, name) for name in source.names]


def _read(config: ConfigDict, source) -> list[np.ndarray]:
    by_name: dict[str, np.ndarray] = {}
    for path in config.mat_files:
        by_name |= read_mat(path, config.convention)
    if missing := [name for name in source.names if name not in by_name]:
        files = ", ".join(map(os.fspath, config.mat_files)) or "`proposals.mat_files`, which is empty,"
        raise ProposalError(f"{files} have no boxes of picture {missing[0]} ({len(missing)} missing)")
    return [by_name[name] for name in source.names]


def picture_files(source: Source, folder: Path) -> list[Path]:
    """Paths of a source's pictures, their names without endings being the source's.

    Pictures that are no files of their own are written to `folder`, as they are encoded.
    """
    paths = [Path(source.describe(index)) for index in range(len(source))]
    for index, name in enumerate(source.names):
        if not paths[index].is_file():
            paths[index] = folder / f"{name}.jpg"
            if not paths[index].exists():
                with atomic_file(paths[index]) as file:
                    file.write(source.fetch(index).numpy())
    return paths
