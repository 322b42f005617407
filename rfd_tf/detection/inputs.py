"""Annotated images with their region proposals, and the batches that a detector learns from."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf.data import Source, VocError, VocSource, first_bad_image, open_voc
from rfd_tf.data.augmentation import decode, pick, uniform
from rfd_tf.data.pipeline import finished
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.data.schedule import AUGMENTATION, Schedule, stream
from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection.boxes import Regions, sample_regions, scale_factor, scaled_boxes, scaled_image
from rfd_tf.detection.mat_files import read_mat
from rfd_tf.detection.proposals import ProposalError, SelectiveSearch, load_proposals, propose
from rfd_tf.distribution import Share
from rfd_tf.files import atomic_file
from rfd_tf.image_header import encoded_size

SOURCES = ("selective_search", "mat")


@dataclasses.dataclass(frozen=True)
class ProposedImages:
    """N images of VOC.

    Attributes:
        source: with `names` and `annotations`.
        proposals: of each image, float32 [P, 4], see `rfd_tf.detection.proposals`.
        exif_orientation: whether boxes are in images that are turned as their EXIF says.
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
        difficult: whether difficult objects alone will do.

    Raises:
        VocError: if an image is not of the size that its annotation says, or there is no object to find.
        And what `data.open_voc` raises.
    """
    source = open_voc(**(dict(data) if classes is None else {**data, "classes": classes}))
    _check_sizes(source, bool(data.get("exif_orientation", False)))
    if all(found.difficult.all() and not (difficult and len(found.labels)) for found in source.annotations):
        raise VocError(f"There is no object to find in the {len(source)} images of {source.name}")
    return source


def _check_sizes(source: VocSource, exif_orientation: bool) -> None:
    """Boxes are scaled with the images, by the sizes that are annotated."""
    for index, annotation in enumerate(source.annotations):
        path = source.describe(index)
        if not os.path.isfile(path):
            continue  # TFDS's sizes are the images' own
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
    """The proposals of each image, float32 [P, 4], at most `config.most` of each.

    Args:
        config: the `proposals` of a config; see `configs/detect/base.py`.
        source: the images.
        cache: the run's folder for what can be made again.
        exif_orientation: as of `ProposedImages`.

    Raises:
        ProposalError: on files that cannot be read or lack an image, boxes beyond their image, or a
            image without any proposal.
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
            raise ProposalError(f"There is no proposal for image {name}")
        beyond = (boxes[:, 2] >= annotation.width) | (boxes[:, 3] >= annotation.height)
        if beyond.any():
            corners = boxes[beyond.argmax()].tolist()
            raise ProposalError(
                f"A proposal for image {name} is x1, y1, x2, y2 = {corners}, beyond its "
                f"{annotation.width} x {annotation.height} pixels: is that the right convention?"
            )
    return [boxes[: config.most or None] for boxes in found]


def _search(config: ConfigDict, source, cache: Path, exif_orientation: bool) -> list[np.ndarray]:
    folder = Path(config.folder or cache / "proposals")
    search = SelectiveSearch(config.mode, config.min_side, exif_orientation=exif_orientation)
    target = propose(image_files(source, cache / "pictures"), folder, search, config.processes)
    return [load_proposals(target, name) for name in source.names]


def _read(config: ConfigDict, source) -> list[np.ndarray]:
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


SCALES = (480, 576, 688, 864, 1200)  # of Fast R-CNN's multi-scale training
LONGEST = 2000
FILLS = -1  # label of a region that only fills the batch


def detection_batches(
    source: VocSource,
    regions: Sequence[Regions],
    preprocessing: Preprocessing,
    *,
    seed: int,
    epochs: int,
    start_step: int = 0,
    batch_size: int = 2,
    num_regions: int = 128,
    foreground_share: float = 0.25,
    scales: Sequence[int] = SCALES,
    longest: int = LONGEST,
    exif_orientation: bool = False,
    share: Share = Share(),  # noqa: B008  it is frozen
) -> tf.data.Dataset:
    """Shuffled images, one half of them mirrored, each at a scale and with regions drawn for it.

    All that is drawn is a function of (seed, epoch, image), as in `data.training_dataset`.

    Args:
        source: N images and their sizes.
        regions: of each image.
        preprocessing: its mean and deviation are used.
        seed, epochs, start_step: as of `data.training_dataset`.
        share: of this worker; all by default.
        batch_size: images in a global batch.
        num_regions: regions in a global batch, the same number for each image.
        foreground_share: of the regions, at most.
        scales: short sides in pixels, one of which is drawn.
        longest: the long side's limit in pixels, which goes before.
        exif_orientation: whether boxes are in images that are turned as their EXIF says.

    Returns:
        A dataset of pairs of dicts for `models.FastRCNN`: `image` float32 [b, H, W, 3] and `regions` float32
        [b, R, 4]; `labels` int32 [b, R] and `deltas` float32 [b, R, 4]. Smaller images are filled up with 0
        below and on the right, missing regions with the whole image, labelled -1.

    Raises:
        ValueError: on numbers out of range or another number of `regions` than images.
    """
    if len(regions) != len(source):
        raise ValueError(f"There are {len(source)} images, and regions of {len(regions)}")
    check_regions(batch_size, num_regions, foreground_share)
    check_scales(scales, longest)
    schedule = Schedule(np.arange(len(source)), seed, batch_size, epochs, start_step, share)
    per_image = num_regions // batch_size

    def drawn(index, flip, scale, seed_pair):
        return _drawn(
            source,
            regions,
            int(index),
            bool(flip),
            float(scale),
            seed_pair,
            per_image,
            foreground_share,
            longest,
        )

    def example(position: tf.Tensor):
        epoch, index = schedule.epoch_and_index(position)
        image_seed = stream(seed, AUGMENTATION, epoch, index)
        first, second = tf.unstack(uniform([2], image_seed))
        flip, scale = (
            first < 0.5,
            tf.gather(tf.constant(scales, tf.int32), pick(tf.constant(len(scales)), second)),
        )
        factor, found, labels, deltas = tf.numpy_function(
            drawn,
            [index, flip, scale, image_seed],
            [tf.float32, tf.float32, tf.int32, tf.float32],
            stateful=False,
        )
        image = decode(source.fetch(index), exif_orientation)
        image = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
        image = scaled_image(image, factor, preprocessing.mean, preprocessing.std)
        return (
            {
                "image": tf.ensure_shape(image, [None, None, 3]),
                "regions": tf.ensure_shape(found, [per_image, 4]),
            },
            {
                "labels": tf.ensure_shape(labels, [per_image]),
                "deltas": tf.ensure_shape(deltas, [per_image, 4]),
            },
        )

    dataset = tf.data.Dataset.range(*schedule.positions())
    dataset = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.padded_batch(schedule.replica_batch, drop_remainder=True)
    return finished(dataset, share.replicas_per_worker)


def _drawn(source, regions, index, flip, scale, seed_pair, count, foreground_share, longest):
    """The factor of an image's sides; boxes, labels and deltas of `count` regions."""
    annotation, own = source.annotations[index], regions[index]
    factor = scale_factor(annotation.height, annotation.width, scale, longest)
    rng = np.random.default_rng([int(word) % 2**64 for word in seed_pair])
    rows, foreground = sample_regions(own.overlaps, count, rng, foreground_share)
    labels = np.full(count, FILLS, "int32")
    boxes = np.tile(np.float32([0, 0, annotation.width - 1, annotation.height - 1]), (count, 1))
    deltas = np.zeros((count, 4), "float32")
    drawn = len(rows)
    labels[:drawn] = np.where(foreground, own.labels[rows], 0)
    boxes[:drawn], deltas[:drawn] = own.boxes[rows], own.deltas[rows] * foreground[:, None]
    if flip:
        boxes = box_functions.mirror(boxes, annotation.width)
        deltas[:, 0] *= -1
    return np.float32(factor), scaled_boxes(boxes, factor), labels, deltas


def check_regions(batch_size: int, num_regions: int, foreground_share: float) -> None:
    """Raise ValueError where `detection_batches` would."""
    if num_regions < batch_size or num_regions % batch_size:
        raise ValueError(
            "`num_regions` must be a multiple of `batch_size`. "
            f"Received: num_regions={num_regions}, batch_size={batch_size}"
        )
    if not 0 <= foreground_share <= 1:
        raise ValueError(f"`foreground_share` must be in [0, 1]. Received: {foreground_share}")


def check_scales(scales: Sequence[int], longest: int) -> None:
    """Raise ValueError where `detection_batches` would."""
    if not scales or min(scales) < 1 or longest < 1:
        raise ValueError(f"Sides must be positive. Received: scales={tuple(scales)}, longest={longest}")
