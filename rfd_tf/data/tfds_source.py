"""Data sets of TensorFlow Datasets, PASCAL VOC among them."""

import dataclasses
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from rfd_tf.data.bad_images import logged
from rfd_tf.data.source import Source, host_constant
from rfd_tf.data.voc import (
    VOC_CLASSES,
    Annotation,
    VocError,
    boxes_within,
    check_boxes,
    multi_label_targets,
)
from rfd_tf.files import atomic_file
from rfd_tf.image_header import encoded_size

CHUNK = 256  # records read at once where only their labels and names are wanted
SLOW_PASS = 100_000  # records from which a pass without a cache is worth a warning


@dataclasses.dataclass(frozen=True)
class TfdsKeys:
    """Names of a builder's features.

    Attributes:
        image: the image.
        label: its class; a builder without it gives images without labels.
        file_name: its file's name, if the builder has it.
    """

    image: str = "image"
    label: str = "label"
    file_name: str = "file_name"


class TfdsSource(Source):
    """One split of any TFDS builder with an image feature.

    Where the builder gives file names (as imagenet2012 does), the index is the rank by (class, file name),
    which is the order of `ImageFolder`. Where it numbers its images in a feature `id`, such as `train_00042`
    (as cifar10 and cifar100 do), the index is the rank by that number: the order of the original files, and
    of torchvision. Otherwise it is the storage order, shard after shard.

    A builder prepared as array_record is read image by image from disk. Finding its labels and names
    takes a pass over the whole split, whose result `cache_dir` keeps. One prepared as tfrecord has no random
    access and is held in memory, as encoded bytes.

    Args:
        name: builder, such as `"imagenet2012"` or `"cifar10"`, with `/config` and `:version` if wanted.
        root: TFDS's `data_dir`; None for its default, `~/tensorflow_datasets`.
        split: such as `"train"` or `"train[:10%]"`.
        keys: names of the builder's features.
        max_bytes: largest tfrecord split to hold in memory.
        cache_dir: folder for the labels and names found, a small file per split.
        download: whether to download and prepare (as array_record) what is not there.

    Raises:
        FileNotFoundError: if the data is not prepared and `download` is False.
        ValueError: on an unknown builder or split, a missing image feature, or a tfrecord split above
            `max_bytes`.
    """

    def __init__(
        self,
        name: str,
        root: str | os.PathLike | None = None,
        split: str = "train",
        *,
        keys: TfdsKeys = TfdsKeys(),
        max_bytes: int = 4 * 2**30,
        cache_dir: str | os.PathLike | None = None,
        download: bool = False,
    ):
        builder = _prepared_builder(name, root, split, download)
        features = builder.info.features
        images = [key for key, feature in features.items() if type(feature).__name__ == "Image"]
        if keys.image not in images:
            raise ValueError(f"{name} has no image {keys.image!r} (`keys`); it has {', '.join(images)}")
        self._image_key = keys.image
        self._keys = [key for key in (keys.label, keys.file_name) if key in features]
        if keys.file_name not in features and "id" in features and type(features["id"]).__name__ == "Text":
            self._keys.append("id")
        self._records: Any = None
        self._images: list[bytes] = []
        if builder.info.file_format.value == "array_record":
            self._records = builder.as_data_source(split, decoders=self._decoders())
            columns = self._columns_of_records(builder, split, cache_dir)
        else:
            columns, self._images = self._read_into_memory(builder, split, max_bytes)
        labels, names = columns.get(keys.label), columns.get(keys.file_name)
        if labels is not None and (labels < 0).all():  # how TFDS marks labels that are kept secret
            labels = None
        if names is None:
            numbers = _numbers(columns.get("id", ()))
            stored = np.arange(len(self._records or self._images))
            self._order = stored if numbers is None else np.argsort(numbers, kind="stable")
        else:
            self._order = np.lexsort([names] if labels is None else [names, labels])
        self._names = None if names is None else names[self._order]
        class_names = None if labels is None else getattr(features[keys.label], "names", None)
        super().__init__(
            f"{name}/{split}",
            None if labels is None else labels[self._order],
            None if class_names is None else tuple(class_names),
        )

    def __len__(self) -> int:
        return len(self._order)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        if self._records is None:
            return tf.gather(self._encoded, index)
        image = tf.numpy_function(self._read, [index], tf.string, stateful=False)
        return tf.ensure_shape(image, [])

    def describe(self, index: int) -> str:
        place = f"{self.name}[{index}]"
        return place if self._names is None else f"{place} ({self._names[index].decode(errors='replace')})"

    def _read(self, index: int) -> bytes:
        return self._records[int(self._order[index])][self._image_key]

    @functools.cached_property
    def _encoded(self) -> tf.Tensor:
        images, self._images = self._images, []
        return host_constant([images[row] for row in self._order])

    def _decoders(self) -> dict:
        import tensorflow_datasets as tfds

        return {self._image_key: tfds.decode.SkipDecoding()}

    def _columns_of_records(self, builder, split: str, cache_dir) -> dict[str, np.ndarray]:
        """Label and file name of every record, from the cache or by reading them all."""
        count = len(self._records)
        if not self._keys:
            return {}
        part = builder.info.splits[split]
        identity = f"{builder.info.full_name} {split} {count} {part.num_bytes} {','.join(self._keys)}"
        cache = None if cache_dir is None else Path(cache_dir, re.sub(r"[^\w.-]+", "_", identity) + ".npz")
        if cache is not None and cache.is_file():
            with np.load(cache, allow_pickle=False) as archive:
                return {key: archive[key] for key in self._keys}
        if cache is None and count >= SLOW_PASS:
            logging.warning("Set `cache_dir`: every start reads all %d records of %s", count, self._keys)
        chunks = (range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))
        records = (record for chunk in chunks for record in self._records.__getitems__(list(chunk)))
        columns = self._columns(logged(records, count, f"Reading the labels of {builder.info.full_name}"))
        if cache is not None:
            with atomic_file(cache) as file:
                np.savez_compressed(file, **columns)  # type: ignore[arg-type]  # NumPy's own flags
        return columns

    def _read_into_memory(self, builder, split: str, max_bytes: int) -> tuple[dict, list[bytes]]:
        import tensorflow_datasets as tfds

        dataset = builder.as_dataset(
            split=split,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),  # one shard after the other
            decoders=self._decoders(),
        )
        images: list[bytes] = []

        def keeping_images() -> Iterator[dict]:
            size = 0
            for record in dataset.as_numpy_iterator():
                images.append(record[self._image_key])
                size += len(images[-1])
                if size > max_bytes:
                    raise ValueError(
                        f"{builder.info.full_name} {split} is stored as {builder.info.file_format.value} and "
                        f"exceeds max_bytes={max_bytes}. Convert it to a format with random access: "
                        f"tfds convert_format --dataset_version_dir={builder.data_path} "
                        "--out_file_format=array_record --out_dir=NEW_ROOT/NAME/VERSION, and give NEW_ROOT"
                    )
                yield record

        count = builder.info.splits[split].num_examples
        return self._columns(logged(keeping_images(), count, f"Reading {builder.info.full_name}")), images

    def _columns(self, records: Iterator[dict]) -> dict[str, np.ndarray]:
        columns: dict[str, list] = {key: [] for key in self._keys}
        for record in records:
            for key, values in columns.items():
                values.append(record[key])
        return {key: np.asarray(values) for key, values in columns.items()}


def _numbers(ids) -> np.ndarray | None:
    """The numbers of ids such as `train_00042`, which share the part before; None where they have no such."""
    found = [match for one in ids if (match := re.fullmatch(rb"(.*?_)(\d{1,18})", one))]
    if not found or len(found) < len(ids) or len({match[1] for match in found}) > 1:
        return None
    return np.array([int(match[2]) for match in found])


def _prepared_builder(name: str, root, split: str, download: bool):
    """The builder, once its data is there and has `split`."""
    import tensorflow_datasets as tfds  # slow to import

    try:
        builder = tfds.builder(name, data_dir=None if root is None else os.fspath(root))
    except tfds.core.registered.DatasetNotFoundError:
        raise ValueError(
            f"TFDS knows no builder {name!r}, nor is its data in {root or 'the default'}"
        ) from None
    if not builder.is_prepared() and download:
        builder.download_and_prepare(file_format="array_record")
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"{builder.info.full_name} is not prepared in {builder.data_dir}. Give its folder as `root`, set "
            f"download=True, or run: tfds build {name} --file_format=array_record --data_dir=DIR"
        )
    try:
        builder.info.splits[split]
    except (KeyError, ValueError):
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}") from None
    return builder


SPLITS = {"train": "train", "val": "validation", "trainval": "train+validation", "test": "test"}

# TFDS keeps corners as float32 shares of the image's sides. Undone, they are off by less than this many
# decimals show, for sides below 8000 pixels: whole numbers come back as they were.
_DECIMALS = 3


class VocTfds(TfdsSource):
    """One split of TFDS's `voc/2007` or `voc/2012`, in the devkit's order, with what `VocDevkit` has.

    Args:
        root: TFDS's `data_dir`; None for its default.
        split: "train", "val", "trainval" or "test".
        year: "2007" or "2012".
        boxes: as of `VocDevkit`.
        name: of a builder with the features of TFDS's `voc`.
        download: whether to download and prepare what is not there.
        exif_orientation: whether boxes are in images that are turned as their EXIF says.

    Attributes:
        names: N names, such as "000005".
        annotations: N `Annotation`s. Corners have three decimals at most.

    Raises:
        FileNotFoundError: if the data is not prepared and `download` is False.
        VocError: on a file that is not an image or a box that is not within it; they are named. On a split
            without any annotation, which is what the test images of 2012 are.
        ValueError: on an unknown split or year, or a builder without the features of `voc`.
    """

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        split: str = "trainval",
        year: str = "2007",
        boxes: str = "strict",
        *,
        name: str = "voc",
        download: bool = False,
        exif_orientation: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}. Received: split={split!r}")
        self._exif_orientation = exif_orientation
        check_boxes(boxes)
        self._found: list[tuple[int, int, dict]] = []
        super().__init__(
            f"{name}/{year}",
            root,
            SPLITS[split],
            keys=TfdsKeys(label="", file_name="image/filename"),
            download=download,
        )
        if not self._found:
            raise ValueError(f"{self.name} has no 'image/filename': is it of the features of TFDS's voc?")
        found = [self._found[row] for row in self._order]
        del self._found
        self.class_names = VOC_CLASSES
        assert self._names is not None  # its key is there
        self.names = tuple(os.path.splitext(file.decode())[0] for file in self._names)
        self.annotations = tuple(
            _annotation(self.describe(row), boxes, *entry) for row, entry in enumerate(found)
        )
        if not any(len(annotation.labels) for annotation in self.annotations):
            raise VocError(f"None of the {len(self)} images of {self.name} is annotated: it has no labels")

    @property
    def targets(self) -> np.ndarray:
        """As of `VocDevkit`."""
        return multi_label_targets(self.annotations, self.num_classes)

    def _columns(self, records: Iterator[dict]) -> dict[str, np.ndarray]:
        return super()._columns(map(self._noted, records))

    def _noted(self, record: dict) -> dict:
        """`record`, whose objects and size of the image are kept as it passes by."""
        file = record["image/filename"].decode(errors="replace")
        if "objects" not in record:
            raise ValueError(f"{file} has no 'objects': it is of no voc builder of TFDS")
        try:
            width, height = encoded_size(record["image"], self._exif_orientation)
        except ValueError as error:
            raise VocError(f"{file}, as TFDS keeps it: {error}") from None
        self._found.append((width, height, record["objects"]))
        return record


def _annotation(place: str, boxes: str, width: int, height: int, objects: dict) -> Annotation:
    """What the devkit's file says, of TFDS's y1 / height, x1 / width, y2 / height, x2 / width."""
    labels = np.asarray(objects["label"], "int64")
    shares = np.asarray(objects["bbox"], "float64").reshape(-1, 4)[:, [1, 0, 3, 2]]
    corners = np.round(shares * [width, height, width, height], _DECIMALS)
    try:
        corners, overhang = boxes_within(
            corners, [VOC_CLASSES[label] for label in labels], width, height, boxes
        )
    except VocError as error:
        raise VocError(f"{place}: {error}") from None
    difficult = np.asarray(objects["is_difficult"], bool)
    return Annotation(width, height, (corners - 1).astype("float32"), labels, difficult, overhang)
