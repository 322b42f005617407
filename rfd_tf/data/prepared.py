"""Collections that are prepared once: decoded, upright, resized, in ArrayRecord shards that training reads.

A folder holds

- `prepared.json`: what the images were and how they were prepared, as of `PrepareOptions`; once the work has
  ended also the shards (`file`, `bytes`, `sha256` of the records) and the images that were skipped;
- `index.npz`: `names`, the images' names in UTF-8 with a zero byte between them; `labels`, int64, if any;
- `images-00000-of-00012.array_record` and so on: for each image a record, a JPEG file or, of format "raw",
  height and width as little-endian uint32 and the pixels, uint8 RGB by rows, and empty for one that was
  skipped; after them one record of JSON that tells about the shard.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rfd_tf.data import augmentation, orientation
from rfd_tf.data.bad_images import BadImageError, one_line
from rfd_tf.data.source import Source, host_constant, image_name, listing_digest
from rfd_tf.files import LocalStorage, Storage, atomic_path, differences, fits, parse_json
from rfd_tf.terminal import Stopped, StopSignals, progress_bar

FORMATS = ("jpeg", "raw")
ON_ERROR = ("raise", "skip")
SETTINGS_FILE, INDEX_FILE = "prepared.json", "index.npz"
VERSION = 1
_SIZE = struct.Struct("<II")  # of raw pixels: height, width
_WRITER = "group_size:1,uncompressed"  # each image is read alone
_READER = "readahead_buffer_size:0,max_parallelism:0"
_FACTS = {  # what `prepared.json` has when the work begins; the rest of it when it has ended
    "version": int,
    "made_from": dict[str, str],
    "exif_orientation": bool,
    "short_side": int,
    "format": str,
    "quality": int,
    "shard_size": int,
    "images": int,
    "listing": str,
    "labelled": bool,
    "class_names": list[str] | None,
    "left_out": dict[str, int],
}
_UNCOMPARED = ("made_from", "left_out", "shards", "skipped")


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """How images are kept.

    Attributes:
        short_side: in pixels, of images whose short side is longer; none is enlarged. 0 keeps all sizes.
        format: "jpeg", or "raw" for pixels: larger, faster to read, and without loss.
        quality: of JPEG, 1 to 100. A JPEG that needs no change is kept as it is.
        exif_orientation: whether images are turned as their EXIF says.
        shard_size: images of a shard; what a kill loses at most.
        on_error: "raise" stops at the first image that cannot be used, "skip" notes it and goes on.

    Raises:
        ValueError: on a value out of range.
    """

    short_side: int = 256
    format: str = "jpeg"
    quality: int = 95
    exif_orientation: bool = True
    shard_size: int = 4096
    on_error: str = "raise"

    def __post_init__(self):
        for name, least in (("short_side", 0), ("quality", 1), ("shard_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}. Received: {getattr(self, name)}")
        if self.quality > 100:
            raise ValueError(f"`quality` must be at most 100. Received: quality={self.quality}")
        for name, values in (("format", FORMATS), ("on_error", ON_ERROR)):
            if getattr(self, name) not in values:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(values)}. Received: {getattr(self, name)!r}"
                )


class PrepareStopped(Stopped):
    """Shards remain to be written."""


def prepare(
    source: Source,
    folder: str | os.PathLike,
    options: PrepareOptions = PrepareOptions(),
    made_from: Mapping[str, str] | None = None,
) -> dict[int, str]:
    """Write all images of `source` into a folder, on all cores; continue where an earlier call ended.

    Indices, labels, class names and names stay those of `source`: an image that was skipped keeps its place.

    Args:
        source: any source.
        folder: made if missing. `PreparedSource(folder)` opens it once this has ended.
        options: how the images are kept.
        made_from: what is noted of where they come from.

    Returns:
        The reason for each image that was skipped, by index, those of earlier calls too.

    Raises:
        BadImageError: on an image that cannot be used, with `on_error="raise"`, or if none can.
        ValueError: if the folder holds something else, other images or other settings.
        PrepareStopped: on SIGTERM or Ctrl-C; the shard in work is not kept.
        OSError: where reading or writing fails, or no image of a shard can be read.
    """
    folder, storage = Path(folder), LocalStorage(folder)
    settings = describe_preparation(source, options, made_from)
    files = shard_files(settings)
    with storage.locked():
        claim_preparation(storage, settings)
        done = {file: read_shard_facts(folder / file, settings) for file in files if (folder / file).exists()}
        for facts in done.values():
            check_skipped(source, facts["skipped"], options.on_error)
        pending = [file for file in files if file not in done]
        left = np.concatenate([files[file] for file in pending] or [np.arange(0)])
        records = Records(source, options).of(left)
        bar = progress_bar("Preparing", len(source), done=len(source) - len(left), disable=not pending)
        with StopSignals() as signals, bar:

            def on_image(skipped: Mapping[int, str]) -> None:
                check_skipped(source, skipped, options.on_error)
                bar.update(1)
                if signals.received is not None:
                    written = f"{len(done)} of {len(files)} shards are written"
                    raise PrepareStopped(signals.received, written)

            for file in pending:
                part = itertools.islice(records, len(files[file]))
                done[file] = write_shard(folder / file, part, files[file], settings, on_image)
        return finish_preparation(storage, source, settings, [done[file] for file in files])


def describe_preparation(
    source: Source, options: PrepareOptions, made_from: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What `prepared.json` has when the work begins."""
    fields = dataclasses.asdict(options)
    del fields["on_error"]
    if options.format == "raw":
        fields["quality"] = 0
    return {
        "version": VERSION,
        "made_from": dict(made_from or {"source": source.name}),
        **fields,
        "images": len(source),
        "listing": listing_digest(source),
        "labelled": source.labels is not None,
        "class_names": None if source.class_names is None else list(source.class_names),
        "left_out": dict(source.left_out),
    }


def shard_files(settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The shards' names, each with the indices of its images."""
    size, rows = settings["shard_size"], np.arange(settings["images"])
    count = -(-len(rows) // size)
    return {
        f"images-{number:05}-of-{count:05}.array_record": rows[number * size : (number + 1) * size]
        for number in range(count)
    }


def claim_preparation(storage: Storage, settings: dict[str, Any]) -> dict[str, Any]:
    """Make the folder that of these settings, before anything is written to it.

    Returns:
        The content of its `prepared.json`.

    Raises:
        ValueError: if it holds something else.
    """
    names = sorted(storage.names())
    if SETTINGS_FILE in names:
        saved = _parse_settings(storage.read(SETTINGS_FILE), f"{storage.location}/{SETTINGS_FILE}")
        if found := _differences(saved, settings):
            raise ValueError(
                f"{storage.location} holds images that were prepared otherwise. " + "; ".join(found)
            )
        return saved
    if names:
        raise ValueError(f"{storage.location} holds {names[0]!r} and no {SETTINGS_FILE}: give a new folder")
    _write_settings(storage, settings)
    return settings


def finish_preparation(
    storage: Storage, source: Source, settings: dict[str, Any], facts: Sequence[Mapping[str, Any]]
) -> dict[int, str]:
    """Write the index and what `prepared.json` has at the end, once every shard is there.

    Args:
        facts: of each shard, as of `write_shard`.

    Returns:
        The reason for each image that was skipped, by index.

    Raises:
        BadImageError: if no image can be used.
    """
    skipped = {int(index): reason for shard in facts for index, reason in shard["skipped"].items()}
    if len(skipped) == len(source):
        raise BadImageError(f"None of the {len(source)} images can be used, as {source.describe(0)}")
    names = "\0".join(image_name(source, index) for index in range(len(source)))
    labels = {} if source.labels is None else {"labels": source.labels}
    with storage.write(INDEX_FILE) as file:
        np.savez(file, allow_pickle=False, names=np.frombuffer(names.encode(), "uint8"), **labels)
    shards = [{name: shard[name] for name in ("file", "bytes", "sha256")} for shard in facts]
    _write_settings(storage, settings | {"shards": shards, "skipped": skipped})
    return skipped


def _differences(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    there, here = ({k: v for k, v in of.items() if k not in _UNCOMPARED} for of in (saved, settings))
    return differences(there, here)


def check_skipped(source: Source, skipped: Mapping[Any, str], on_error: str) -> None:
    """BadImageError of the first image that was skipped, with `on_error="raise"`."""
    if skipped and on_error == "raise":
        index, reason = next(iter(skipped.items()))
        raise BadImageError(f"{source.describe(int(index))}: {reason}")


class Records:
    """What is written for each image: a JPEG file, or pixels; made in parallel."""

    def __init__(self, source: Source, options: PrepareOptions):
        self.source, self.options = source, options
        self._example = tf.function(
            lambda row: (row, self._content(source.fetch(row))),
            [tf.TensorSpec([], tf.int64)],
            autograph=False,
        )

    def of(self, rows: np.ndarray) -> Iterator[tuple[bytes, str, bool]]:
        """Of each image, in order, (record, why it cannot be used, whether it could be read)."""
        parallel = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        dataset = tf.data.Dataset.from_tensor_slices(host_constant(rows))
        dataset = dataset.map(self._example, num_parallel_calls=parallel, deterministic=True)
        good = dataset.ignore_errors().prefetch(parallel).as_numpy_iterator()
        nothing: tuple[Any, Any] = (None, None)
        next_row, content = next(good, nothing)
        for row in rows.tolist():
            if row == next_row:
                yield _record(content), "", True
                next_row, content = next(good, nothing)
                continue
            fetched = None
            try:  # alone, to learn why it failed
                fetched = self.source.fetch(tf.constant(row, tf.int64))
                yield _record(self._content(fetched).numpy()), "", True
            except Exception as error:  # whatever the source or a decoder raises is this image's reason
                yield b"", one_line(error), fetched is not None

    def _content(self, fetched: tf.Tensor) -> tf.Tensor:
        """A JPEG file (string scalar), or pixels (uint8 [H, W, 3])."""
        options = self.options
        stored = augmentation.decode(fetched, options.exif_orientation)
        pixels, smaller = stored, tf.constant(False)
        if side := options.short_side:
            smaller = tf.minimum(*augmentation.image_size(stored)) > side
            pixels = tf.cond(smaller, lambda: augmentation.resize_short_side(stored, side), lambda: stored)
        if options.format == "raw":
            return pixels

        def encode() -> tf.Tensor:
            return tf.io.encode_jpeg(pixels, format="rgb", quality=options.quality)

        if not self.source.encoded:
            return encode()
        # Decoding has shown that it is whole. One with an orientation would be turned when it is read.
        unchanged = tf.io.is_jpeg(fetched) & ~smaller & (orientation.exif_orientation(fetched) == 1)
        return tf.cond(unchanged, lambda: fetched, encode)


def _record(content: bytes | np.ndarray) -> bytes:
    if isinstance(content, bytes):
        return content
    return _SIZE.pack(*content.shape[:2]) + content.tobytes()


def write_shard(
    path: Path,
    records: Iterable[tuple[bytes, str, bool]],
    rows: np.ndarray,
    settings: dict[str, Any],
    on_image: Callable[[Mapping[int, str]], None],
) -> dict[str, Any]:
    """Write a shard, whole or not at all; its `file`, `bytes`, `sha256` and `skipped`.

    Args:
        path: of the file.
        records: of its images, as of `Records`.
        rows: their indices.
        settings: of `describe_preparation`.
        on_image: called after each image with what was skipped so far.

    Raises:
        OSError: if it cannot be written; if of several images none could be read at all: a disk that is gone.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    skipped: dict[int, str] = {}
    digest, unread = hashlib.sha256(), 0
    with atomic_path(path) as temporary:
        try:
            writer = ArrayRecordWriter(os.fspath(temporary), _WRITER)
            try:
                for row, (record, problem, was_read) in zip(rows.tolist(), records, strict=True):
                    unread += not was_read
                    if problem:
                        skipped[row] = problem
                    on_image(skipped)
                    writer.write(record)
                    digest.update(record)
                if unread == len(rows) > 1:
                    raise OSError(f"None of {unread} images can be read, as the first: {skipped[rows[0]]}")
                told = {"settings": settings, "sha256": digest.hexdigest(), "skipped": skipped}
                writer.write(json.dumps(told).encode())
            finally:
                writer.close()
        except RuntimeError as error:  # a full disk, for one
            raise OSError(f"{path} cannot be written: {error}") from error
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest(), "skipped": skipped}


def read_shard_facts(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What `write_shard` gave, of a shard that is there; ValueError if damaged or of other settings."""
    try:
        reader = _open_shard(path)
        told = parse_json(reader.read([reader.num_records() - 1])[0])
        skipped, found = told["skipped"], _differences(told["settings"], settings)
        if not (fits(skipped, dict[str, str]) and fits(told["sha256"], str)):
            raise ValueError("its last record is not ours")
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it") from error
    if found:
        raise ValueError(f"{path} is of other settings. " + "; ".join(found))
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": told["sha256"], "skipped": skipped}


def _open_shard(path: Path):
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(os.fspath(path), _READER)
    if not reader.ok() or reader.num_records() < 1:
        raise ValueError("it is no whole ArrayRecord file")
    return reader


def _write_settings(storage: Storage, fields: dict[str, Any]) -> None:
    storage.write_text(SETTINGS_FILE, json.dumps(fields, indent=1) + "\n")


def _parse_settings(content: bytes, where: str | os.PathLike) -> dict[str, Any]:
    """`prepared.json`; ValueError if it is not ours."""
    try:
        fields = parse_json(content)
        if not isinstance(fields, dict) or not fits(fields.get("version"), int):
            raise ValueError("it has no version")
        if fields["version"] > VERSION:
            raise ValueError("it was written by a newer version")
        for name, kind in _FACTS.items():
            if not fits(fields.get(name), kind):
                raise ValueError(f"its field {name} is {fields.get(name)!r:.80}")
        shards = fields.get("shards", [])
        if not fits(shards, list[dict]) or not fits(fields.get("skipped", {}), dict[str, str]):
            raise ValueError("its shards or skipped images are not ours")
        if not all(fits(shard.get(n), k) for shard in shards for n, k in (("file", str), ("bytes", int))):
            raise ValueError("its shards are not ours")
    except ValueError as error:
        raise ValueError(f"{where}: not written by `rfd prepare` ({error})") from None
    return fields


class PreparedSource(Source):
    """Images that `prepare` wrote.

    Args:
        folder: the folder.
        on_error: "raise" refuses a folder where images were skipped; "skip" lists them, so that every index
            stays as it is, and leaves them to `valid_indices`.

    Attributes:
        original_names: N names, as of `source.image_name`.
        settings: the content of `prepared.json`.

    Raises:
        FileNotFoundError: if the folder is none that `prepare` wrote.
        BadImageError: if images were skipped, with `on_error="raise"`; the first is named.
        ValueError: if the work has not ended, or a file is damaged or missing.
    """

    def __init__(self, folder: str | os.PathLike, on_error: str = "raise"):
        if on_error not in ON_ERROR:
            raise ValueError(f"`on_error` must be one of {ON_ERROR}. Received: on_error={on_error!r}")
        self.folder = Path(folder)
        path = self.folder / SETTINGS_FILE
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} holds no {SETTINGS_FILE}: it must be a folder that `rfd prepare` wrote"
            )
        self.settings = _parse_settings(path.read_bytes(), path)
        if "shards" not in self.settings:
            raise ValueError(f"{folder} is not whole: `rfd prepare` was stopped, and continues it")
        self.encoded = self.settings["format"] == "jpeg"
        self._check_shards()
        self.original_names, labels = self._read_index()
        names = self.settings["class_names"]
        super().__init__(self.folder.name or str(folder), labels, None if names is None else tuple(names))
        self.left_out = self.settings["left_out"]
        self.skipped = {int(index): reason for index, reason in self.settings["skipped"].items()}
        if self.skipped and on_error == "raise":
            index, reason = next(iter(self.skipped.items()))
            raise BadImageError(
                f"{self.describe(index)}: {reason} (one of {len(self.skipped)} images that were skipped when "
                f'{folder} was prepared: use on_error="skip")'
            )
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.settings["images"]

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        if self.encoded:
            read, kind, shape = self._file, tf.string, []
        else:
            read, kind, shape = self._pixels, tf.uint8, [None, None, 3]
        return tf.ensure_shape(tf.numpy_function(read, [index], kind, stateful=False), shape)

    def describe(self, index: int) -> str:
        return f"{self.folder}[{index}] ({self.original_names[index]})"

    def fingerprint(self, indices: np.ndarray) -> str:
        """Of the settings, which have the shards' digests, and the indices."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode())
        digest.update(np.asarray(indices, "<i8").tobytes())
        return digest.hexdigest()

    def _read(self, index: np.integer | np.ndarray) -> bytes:
        index = int(index)
        if self.skipped and index in self.skipped:
            raise ValueError(self.skipped[index])
        number, place = divmod(index, self.settings["shard_size"])
        return self._reader(number).read([place])[0]

    def _file(self, index: np.integer | np.ndarray) -> np.ndarray:
        return np.array(
            self._read(index), object
        )  # as it is: NumPy's own kind of bytes loses zeros at the end

    def _pixels(self, index: np.integer | np.ndarray) -> np.ndarray:
        record = self._read(index)
        return np.frombuffer(record, "uint8", offset=_SIZE.size).reshape(*_SIZE.unpack_from(record), 3)

    def _reader(self, number: int):
        reader = self._readers.get(number)
        if reader is None:
            with self._lock:
                reader = self._readers.get(number)
                if reader is None:
                    path = self.folder / self.settings["shards"][number]["file"]
                    reader = self._readers[number] = _open_shard(path)
        return reader

    def _check_shards(self) -> None:
        count, size = len(self.settings["shards"]), self.settings["shard_size"]
        if count != -(-self.settings["images"] // size):
            raise ValueError(f"{self.folder / SETTINGS_FILE} is damaged: it names {count} shards")
        for shard in self.settings["shards"]:
            path = self.folder / shard["file"]
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size == shard["bytes"]:
                    continue
                raise ValueError(f"{path} is damaged: it does not have {shard['bytes']} bytes")
            raise ValueError(f"{path} is missing: delete {SETTINGS_FILE}")

    def _read_index(self) -> tuple[tuple[str, ...], np.ndarray | None]:
        path, count = self.folder / INDEX_FILE, self.settings["images"]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = tuple(arrays["names"].tobytes().decode().split("\0"))
                labels = arrays["labels"] if self.settings["labelled"] else None
            if len(names) != count or not (labels is None or labels.shape == (count,)):
                raise ValueError(f"it is not of {count} images")
        except Exception as error:  # zipfile and NumPy each have their own
            raise ValueError(f"{path} is damaged or missing ({error})") from error
        return names, labels
