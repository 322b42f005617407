"""Annotated images with their region proposals, and the batches that a detector learns from."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf.data import Source, VocData, VocError, VocSource, first_bad_image, open_voc
from rfd_tf.data.augmentation import decode, pick, uniform
from rfd_tf.data.pipeline import finished
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.data.schedule import AUGMENTATION, Schedule, stream
from rfd_tf.detection.boxes import Regions, mirror, sample_regions, scale_factors, scaled_image
from rfd_tf.detection.mat_files import read_mat
from rfd_tf.detection.proposals import ProposalError, SelectiveSearch, load_proposals, propose
from rfd_tf.files import atomic_file
from rfd_tf.image_header import encoded_size

SOURCES = ("selective_search", "mat")


@dataclasses.dataclass(frozen=True)
class ProposedImages:
    """N images of VOC with region proposals.

    Attributes:
        source: with `names` and `annotations`.
        proposals: of each image, float32 [P, 4], see `detection.boxes`.
        exif_orientation: whether boxes refer to images turned as their EXIF says.
    """

    source: VocSource
    proposals: list[np.ndarray]
    exif_orientation: bool = False

    def read(self, index: int) -> np.ndarray:
        """Image `index`, uint8 [H, W, 3]; BadImageError if it cannot be decoded."""
        return read_image(self.source, index, self.exif_orientation)


def read_image(source: Source, index: int, exif_orientation: bool) -> np.ndarray:
    """Image `index` of a source, uint8 [H, W, 3]; BadImageError if it cannot be decoded."""
    try:
        return decode(source.fetch(tf.constant(index, tf.int64)), exif_orientation).numpy()
    except tf.errors.OpError as error:
        if bad := first_bad_image(source, np.array([index])):
            raise bad from error
        raise


def open_annotated(
    data: ConfigDict, classes: Sequence[str] | None = None, difficult: bool = False
) -> VocSource:
    """The images that a config's `data` names.

    Args:
        data: fields of a config, see `configs/detect/base.py`.
        classes: names of the classes; by default those that `data` names.
        difficult: whether it is enough if all objects are difficult ones.

    Raises:
        VocError: if an image's size is not the annotated one, or there is no object to find.
        And what `data.open_voc` raises.
    """
    source = open_voc(VocData(**(dict(data) if classes is None else {**data, "classes": classes})))
    _check_sizes(source, bool(data.get("exif_orientation", False)))
    if all(found.difficult.all() and not (difficult and len(found.labels)) for found in source.annotations):
        raise VocError(f"There is no object to find in the {len(source)} images of {source.name}")
    return source


def _check_sizes(source: VocSource, exif_orientation: bool) -> None:
    """Proposals are checked, and regions clipped, by the annotated sizes."""
    for index, annotation in enumerate(source.annotations):
        path = source.describe(index)
        if not os.path.isfile(path):
            continue  # TFDS's sizes are the images' own
        try:
            width, height = encoded_size(path, exif_orientation)
        except ValueError as error:
            raise VocError(f"{path}: {error}") from None
        annotated = annotation.width, annotation.height
        if (width, height) != annotated:
            turned = encoded_size(path, not exif_orientation) == annotated
            raise VocError(
                f"{path} is {width} x {height} pixels, its annotation says {annotated[0]} x {annotated[1]}"
                + turned * f": the size with exif_orientation={not exif_orientation}"
            )


def find_proposals(
    config: ConfigDict, source: VocSource, cache: Path, exif_orientation: bool = False
) -> list[np.ndarray]:
    """The proposals of each image, float32 [P, 4], at most `config.most` of each.

    Args:
        config: the `proposals` of a config; see `configs/detect/base.py`.
        source: the images.
        cache: the run's folder for what can be made again.
        exif_orientation: as in `ProposedImages`.

    Raises:
        ProposalError: on files that cannot be read or lack an image, boxes beyond their image, or an image
            without any proposal.
        ProposalsStopped: on SIGTERM or Ctrl-C; the same call continues.
        ValueError: on fields out of range.
    """
    if config.most < 0:
        raise ValueError(f"`proposals.most` must not be negative. Received: {config.most}")
    if config.source == "selective_search":
        search = SelectiveSearch(config.mode, config.min_side, exif_orientation=exif_orientation)
        paths = image_files(source, cache / "pictures")
        folder = propose(paths, config.folder or cache / "proposals", search, config.processes)
        found = [load_proposals(folder, name) for name in source.names]
    elif config.source == "mat":
        found = _read_mat_files(config, source)
    else:
        raise ValueError(f"`proposals.source` must be one of {SOURCES}. Received: {config.source!r}")
    for name, annotation, boxes in zip(source.names, source.annotations, found, strict=True):
        if not len(boxes):
            raise ProposalError(f"There is no proposal for image {name}")
        beyond = (boxes[:, 2] >= annotation.width) | (boxes[:, 3] >= annotation.height)
        if beyond.any():
            corners = boxes[beyond.argmax()].tolist()
            raise ProposalError(
                f"A proposal for image {name} is x1, y1, x2, y2 = {corners}, beyond its "
                f"{annotation.width} x {annotation.height} pixels: is that the right convention?"
            )
    return [boxes[: config.most or None] for boxes in found]


def _read_mat_files(config: ConfigDict, source: VocSource) -> list[np.ndarray]:
    by_name: dict[str, np.ndarray] = {}
    for path in config.mat_files:
        by_name |= read_mat(path, config.convention)
    if missing := [name for name in source.names if name not in by_name]:
        files = ", ".join(map(os.fspath, config.mat_files)) or "`proposals.mat_files`, which is empty,"
        raise ProposalError(f"{files} have no boxes of image {missing[0]} ({len(missing)} missing)")
    return [by_name[name] for name in source.names]


def image_files(source: VocSource, folder: Path) -> list[Path]:
    """Paths of a source's images, their names without endings being the source's.

    Images that are no files of their own are written to `folder`, as they are encoded.
    """
    paths = [Path(source.describe(index)) for index in range(len(source))]
    for index, name in enumerate(source.names):
        if not paths[index].is_file():
            paths[index] = folder / f"{name}.jpg"
            if not paths[index].exists():
                with atomic_file(paths[index]) as file:
                    file.write(source.fetch(index).numpy())
    return paths


FILLS = -1  # label of a region that only fills the batch


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How batches for a detector are made.

    Attributes:
        regions_per_image: that are drawn.
        foreground_share: of the regions, at most.
        scales: short sides in pixels, one of which is drawn.
        longest: the long side's limit in pixels, which takes precedence.
        exif_orientation: whether boxes refer to images turned as their EXIF says.

    Raises:
        ValueError: on a value out of range.
    """

    regions_per_image: int = 64
    foreground_share: float = 0.25
    scales: tuple[int, ...] = (480, 576, 688, 864, 1200)
    longest: int = 2000
    exif_orientation: bool = False

    def __post_init__(self):
        if self.regions_per_image < 1:
            raise ValueError(f"`regions_per_image` must be at least 1. Received: {self.regions_per_image}")
        if not 0 <= self.foreground_share <= 1:
            raise ValueError(f"`foreground_share` must be in [0, 1]. Received: {self.foreground_share}")
        if not self.scales or min(self.scales) < 1 or self.longest < 1:
            raise ValueError(
                f"Sides must be positive. Received: scales={self.scales}, longest={self.longest}"
            )


def detection_batches(
    source: VocSource,
    regions: Sequence[Regions],
    preprocessing: Preprocessing,
    schedule: Schedule,
    options: BatchOptions,
) -> tf.data.Dataset:
    """Shuffled images, half of them mirrored, each at a scale and with regions drawn for it.

    Everything random is a function of (seed, epoch, image), as in `data.training_dataset`.

    Args:
        source: N images.
        regions: of each image.
        preprocessing: its mean and deviation are used.
        schedule: which images come when; its seed is that of everything random.
        options: see there.

    Returns:
        A dataset of pairs of dicts for `FastRCNN`: `image` float32 [b, H, W, 3] and `regions` float32
        [b, R, 4]; `labels` int32 [b, R] and `deltas` float32 [b, R, 4]. Smaller images are filled up with 0
        below and on the right, missing regions with the whole image, labelled -1.

    Raises:
        ValueError: if there are not as many `regions` as images.
    """
    if len(regions) != len(source):
        raise ValueError(f"There are {len(source)} images, and regions of {len(regions)}")
    per_image = options.regions_per_image

    def drawn(index, mirrored, seed):
        """Boxes, labels and deltas of this image's regions."""
        annotation, own = source.annotations[index], regions[index]
        rng = np.random.default_rng([int(word) % 2**64 for word in seed])
        rows, foreground = sample_regions(own.overlaps, per_image, rng, options.foreground_share)
        labels = np.full(per_image, FILLS, "int32")
        boxes = np.tile(np.float32([0, 0, annotation.width - 1, annotation.height - 1]), (per_image, 1))
        deltas = np.zeros((per_image, 4), "float32")
        labels[: len(rows)] = np.where(foreground, own.labels[rows], 0)
        boxes[: len(rows)] = own.boxes[rows]
        deltas[: len(rows)] = own.deltas[rows] * foreground[:, None]
        if mirrored:
            boxes = mirror(boxes, annotation.width)
            deltas[:, 0] *= -1
        return boxes, labels, deltas

    @tf.autograph.experimental.do_not_convert
    def example(position: tf.Tensor):
        epoch, index = schedule.epoch_and_index(position)
        seed = stream(schedule.seed, AUGMENTATION, epoch, index)
        first, second = tf.unstack(uniform([2], seed))
        mirrored = first < 0.5
        scale = tf.gather(tf.constant(options.scales), pick(tf.constant(len(options.scales)), second))
        boxes, labels, deltas = tf.numpy_function(
            drawn, [index, mirrored, seed], [tf.float32, tf.int32, tf.float32], stateful=False
        )
        image = decode(source.fetch(index), options.exif_orientation)
        height, width = tf.unstack(tf.shape(image)[:2])
        factor = scale_factors(height, width, [scale], options.longest)[0]
        image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        image = scaled_image(image, factor, preprocessing.mean, preprocessing.std)
        return (
            {
                "image": tf.ensure_shape(image, [None, None, 3]),
                "regions": tf.ensure_shape(boxes * factor, [per_image, 4]),
            },
            {
                "labels": tf.ensure_shape(labels, [per_image]),
                "deltas": tf.ensure_shape(deltas, [per_image, 4]),
            },
        )

    dataset = tf.data.Dataset.range(*schedule.positions())
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.padded_batch(schedule.replica_batch, drop_remainder=True)
    return finished(dataset, schedule.share.replicas_per_worker)
