"""Annotated pictures with the regions that were proposed in them."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf.atomic import atomic_file
from rfd_tf.data import Source, VocError, VocSource, first_bad_image, open_voc
from rfd_tf.data.augmentation import decode
from rfd_tf.image_header import encoded_size
from rfd_tf.proposals import ProposalError, SelectiveSearch, load_proposals, propose, read_mat

SOURCES = ("selective_search", "mat")


@dataclasses.dataclass(frozen=True)
class ProposedPictures:
    """N pictures of VOC.

    Attributes:
        source: with `names` and `annotations`.
        proposals: of each picture, float32 [P, 4], see `rfd_tf.proposals`.
        exif_orientation: whether boxes are in pictures that are turned as their EXIF says.
    """

    source: VocSource
    proposals: list[np.ndarray]
    exif_orientation: bool = False

    def read(self, index: int) -> np.ndarray:
        """Picture `index`, uint8 [H, W, 3]; BadImageError if it cannot be decoded."""
        return read_picture(self.source, index, self.exif_orientation)


def read_picture(source: Source, index: int, exif_orientation: bool) -> np.ndarray:
    """Picture `index` of a source, uint8 [H, W, 3]; BadImageError if it cannot be decoded."""
    try:
        return decode(source.fetch(tf.constant(index, tf.int64)), exif_orientation).numpy()
    except tf.errors.OpError as error:
        if bad := first_bad_image(source, np.array([index])):
            raise bad from error
        raise


def open_annotated(
    data: ConfigDict, classes: Sequence[str] | None = None, difficult: bool = False
) -> VocSource:
    """The pictures that a config's `data` names.

    Args:
        data: fields of a config, see `configs/detection/base.py`.
        classes: names of the classes; by default those that `data` names.
        difficult: whether difficult objects alone will do.

    Raises:
        VocError: if a picture is not of the size that its annotation says, or there is no object to find.
        And what `data.open_voc` raises.
    """
    source = open_voc(**(dict(data) if classes is None else {**data, "classes": classes}))
    _check_sizes(source, bool(data.get("exif_orientation", False)))
    if all(found.difficult.all() and not (difficult and len(found.labels)) for found in source.annotations):
        raise VocError(f"There is no object to find in the {len(source)} pictures of {source.name}")
    return source


def _check_sizes(source: VocSource, exif_orientation: bool) -> None:
    """Boxes are scaled with the pictures, by the sizes that are annotated."""
    for index, annotation in enumerate(source.annotations):
        path = source.describe(index)
        if not os.path.isfile(path):
            continue  # TFDS's sizes are the pictures' own
        try:
            width, height = encoded_size(path, exif_orientation)
        except ValueError as error:
            raise VocError(f"{path}: {error}") from None
        if (width, height) != (annotation.width, annotation.height):
            turned = encoded_size(path, not exif_orientation) == (annotation.width, annotation.height)
            raise VocError(
                f"{path} is {width} x {height} pixels, its annotation says "
                f"{annotation.width} x {annotation.height}"
                + turned
                * f": the size with exif_orientation={not exif_orientation}"
            )


def find_proposals(
    config: ConfigDict, source: VocSource, cache: Path, exif_orientation: bool = False
) -> list[np.ndarray]:
    """The proposals of each picture, float32 [P, 4], at most `config.most` of each.

    Args:
        config: the `proposals` of a config; see `configs/detection/base.py`.
        source: the pictures.
        cache: the run's folder for what can be made again.
        exif_orientation: as of `ProposedPictures`.

    Raises:
        ProposalError: on files that cannot be read or lack a picture, boxes beyond their picture, or a
            picture without any proposal.
        ProposalsStopped: on SIGTERM or Ctrl-C; the same call goes on.
        ValueError: on fields out of range.
    """
    if config.most < 0:
        raise ValueError(f"`proposals.most` must not be negative. Received: {config.most}")
    if config.source == "selective_search":
        found = _search(config, source, cache, exif_orientation)
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


def _search(config: ConfigDict, source, cache: Path, exif_orientation: bool) -> list[np.ndarray]:
    folder = Path(config.folder or cache / "proposals")
    search = SelectiveSearch(config.mode, config.min_side, exif_orientation=exif_orientation)
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


def picture_files(source: VocSource, folder: Path) -> list[Path]:
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
