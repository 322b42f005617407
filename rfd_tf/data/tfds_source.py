"""Data sets of TensorFlow Datasets."""

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
from rfd_tf.files import atomic_file

CHUNK = 256  # records read at once where only their labels and names are wanted
SLOW_PASS = 100_000  # records from which a pass without a cache is worth a warning


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
        image_key: name of the image feature.
        label_key: name of the label feature; a builder without it gives images without labels.
        file_name_key: name of the file name feature, if the builder has it.
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
        image_key: str = "image",
        label_key: str = "label",
        file_name_key: str = "file_name",
        max_bytes: int = 4 * 2**30,
        cache_dir: str | os.PathLike | None = None,
        download: bool = False,
    ):
        builder = _prepared_builder(name, root, split, download)
        features = builder.info.features
        images = [key for key, feature in features.items() if type(feature).__name__ == "Image"]
        if image_key not in images:
            raise ValueError(f"{name} has no image {image_key!r} (`image_key`); it has {', '.join(images)}")
        self._image_key = image_key
        self._keys = [key for key in (label_key, file_name_key) if key in features]
        if file_name_key not in features and "id" in features and type(features["id"]).__name__ == "Text":
            self._keys.append("id")
        self._records: Any = None
        self._images: list[bytes] = []
        if builder.info.file_format.value == "array_record":
            self._records = builder.as_data_source(split, decoders=_skip_decoding(image_key))
            columns = self._columns_of_records(builder, split, cache_dir)
        else:
            columns, self._images = self._read_into_memory(builder, split, max_bytes)
        labels, names = columns.get(label_key), columns.get(file_name_key)
        if labels is not None and (labels < 0).all():  # how TFDS marks labels that are kept secret
            labels = None
        if names is None:
            numbers = _numbers(columns.get("id", ()))
            stored = np.arange(len(self._records or self._images))
            self._order = stored if numbers is None else np.argsort(numbers, kind="stable")
        else:
            self._order = np.lexsort([names] if labels is None else [names, labels])
        self._names = None if names is None else names[self._order]
        class_names = None if labels is None else getattr(features[label_key], "names", None)
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
            decoders=_skip_decoding(self._image_key),
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


def _skip_decoding(image_key: str) -> dict:
    import tensorflow_datasets as tfds

    return {image_key: tfds.decode.SkipDecoding()}


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
