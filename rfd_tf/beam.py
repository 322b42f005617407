"""Extraction and preparation of images on Apache Beam. The only module that needs Beam."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import apache_beam as beam
import numpy as np
import tensorflow as tf
from absl import logging
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from rfd_tf import data
from rfd_tf.data import prepared
from rfd_tf.data.image_folder import DECODABLE, has_image_ending, kind_of_file
from rfd_tf.data.image_list import parse_image_list
from rfd_tf.features.extract import ExtractOptions, ImageReader, extract_shard
from rfd_tf.features.open_feature_model import SERVING_SCHEMES, FeatureModel
from rfd_tf.features.store import (
    ExtractionError,
    Settings,
    Skipped,
    check_values,
    claim,
    close,
    pending_shards,
    shard_format,
    write_manifest,
    write_shard,
)
from rfd_tf.files import Storage, fits, parse_json

_TEMPORARY, _PARTIAL = (".listing-", ".facts-"), ".partial"
_PLAIN = {"compression_type": CompressionTypes.UNCOMPRESSED}


class BeamStorage(Storage):
    """A folder in any of Beam's file systems: `gs://`, `s3://`, `hdfs://`, ..., or a path.

    It is made if missing, where the file system has folders.
    """

    def __init__(self, location: str):
        super().__init__(location)
        if not FileSystems.exists(location):
            with contextlib.suppress(OSError):  # another worker may have made it, or there are no folders
                FileSystems.mkdirs(location)

    def names(self) -> set[str]:
        return {name for name in self._all_names() if not name.startswith(".")}

    def _all_names(self) -> set[str]:
        found = FileSystems.match([FileSystems.join(self.location, "*")])[0].metadata_list
        return {FileSystems.split(metadata.path)[1] for metadata in found} - {""}

    def open(self, name: str) -> BinaryIO:
        return open_file(FileSystems.join(self.location, name))

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        temporary = FileSystems.join(self.location, f".{uuid.uuid4().hex}{_PARTIAL}")
        try:
            with FileSystems.create(temporary, **_PLAIN) as file:
                yield file
            FileSystems.rename([temporary], [FileSystems.join(self.location, name)])
        except BaseException:
            with contextlib.suppress(Exception):  # the first error counts
                FileSystems.delete([temporary])
            raise

    def exists(self, name: str) -> bool:
        """Whether there is such a file; cheaper than `names` in a large folder."""
        return FileSystems.exists(FileSystems.join(self.location, name))

    def clear(self) -> None:
        """Remove the files that were only needed on the way, those of lost workers too."""
        hidden = [
            name for name in self._all_names() if name.startswith(_TEMPORARY) or name.endswith(_PARTIAL)
        ]
        with contextlib.suppress(OSError):  # left behind they do no harm
            FileSystems.delete([FileSystems.join(self.location, name) for name in hidden])


def open_file(path: str) -> BinaryIO:
    """A file as it is, whatever its ending; FileNotFoundError where there is none."""
    try:
        return FileSystems.open(path, **_PLAIN)
    except OSError as error:
        if not FileSystems.exists(path):
            raise FileNotFoundError(f"{path}; No such file or directory") from error
        raise


LIST_ENDINGS = (".txt", ".csv", ".tsv")


class BeamFiles(data.Source):
    """Image files below a folder of any of Beam's file systems; arguments as of `ImageFiles`."""

    def __init__(
        self,
        root: str,
        files: Sequence[str],
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] | None = None,
    ):
        super().__init__(root, labels, class_names)
        self.root = root
        self.files = tuple(files)

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self._read, [index], tf.string, stateful=False), [])

    def describe(self, index: int) -> str:
        return FileSystems.join(self.root, self.files[index])

    def _read(self, index: int) -> bytes:
        with open_file(self.describe(int(index))) as file:
            return file.read()


def open_beam_files(location: str, root: str = "") -> BeamFiles:
    """`data.open_images` for a folder or list that has an address such as `gs://BUCKET/FOLDER`.

    Args:
        location: a list if it ends in `.txt`, `.csv` or `.tsv`, else a folder.
        root: of a list, by default its folder.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: on a malformed list.
    """
    if location.lower().endswith(LIST_ENDINGS):
        with open_file(location) as file:
            text = file.read().decode("utf-8-sig", "surrogateescape")
        files, labels = parse_image_list(text, location, every_class=False)
        return BeamFiles(root or FileSystems.split(location)[0], files, labels)
    root = location.rstrip("/")
    found = FileSystems.match([f"{root}/**"])[0].metadata_list
    paths = [metadata.path.removeprefix(root).lstrip("/") for metadata in found]
    others = [path for path in paths if not has_image_ending(path)]
    paths = [path for path in paths if has_image_ending(path)]
    if not paths:
        raise FileNotFoundError(f"{location} holds no image (a file that ends in {', '.join(DECODABLE)})")
    source = BeamFiles(root, *_in_order(paths))
    source.left_out = Counter(kind_of_file(path.rpartition("/")[2]) for path in others)
    return source


def _in_order(paths: list[str]) -> tuple[list[str], np.ndarray | None, tuple[str, ...] | None]:
    """Files, labels and class names, as `ImageFolder` or `FlatFolder` would have them."""
    classes = sorted({path.split("/")[0] for path in paths if "/" in path})
    if len(classes) < 2 or any("/" not in path for path in paths):
        return sorted(paths), None, None
    paths = sorted(paths, key=lambda path: (path.split("/")[0], *path.rsplit("/", 1)))
    numbers = {name: number for number, name in enumerate(classes)}
    return paths, np.asarray([numbers[path.split("/")[0]] for path in paths]), tuple(classes)


@contextlib.contextmanager
def local_model(location: str) -> Iterator[str]:
    """`location`, or, where it is an address of a file system, a copy of that file or folder for the block.

    Raises:
        FileNotFoundError: if there is nothing.
    """
    if "://" not in location or location.startswith(SERVING_SCHEMES):
        yield location
        return
    location = location.rstrip("/")
    below = FileSystems.match([f"{location}/**"])[0].metadata_list
    with tempfile.TemporaryDirectory(prefix="rfd_model_") as folder:
        target = os.path.join(folder, location.rsplit("/", 1)[1])
        for path in [metadata.path for metadata in below] or [location]:
            copy = target + path.removeprefix(location)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            with open_file(path) as source, open(copy, "wb") as file:
                shutil.copyfileobj(source, file)
        yield target


# Beam's own DirectRunner first looks for Prism, a Go program, and downloads it where it is missing.
_RUNNERS = {"DirectRunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner"}
_COUNTERS = "rfd_tf"


def extract_on_beam(
    open_model: Callable[[], FeatureModel],
    source: data.Source,
    settings: Settings,
    out: str,
    runner: str,
    flags: Sequence[str],
    options: ExtractOptions,
) -> list[Skipped]:
    """`extract` on a cluster: the same shards and manifest, and what is there already is kept.

    The launcher lists the images and writes each shard's part of the list into the folder; a worker opens
    the model once, and makes one shard after the other. A shard appears whole, so that retries do no harm.
    Counted for each worker and shown by the runner: `rfd_tf/images`, `skipped`, `shards`.

    Args:
        open_model: opens the model on a worker; it must pickle.
        source: the images: files, with an address that the workers can read from.
        settings: `settings.describe_extraction`.
        out: the folder, in any of Beam's file systems.
        runner: of Beam; `DirectRunner` runs in this process.
        flags: further flags of Beam.
        options: as of `extract`.

    Returns:
        The skipped images, those of earlier calls too.

    Raises:
        ExtractionError: as `extract`, and if the pipeline fails.
        BadImageError, ValueError, OSError: as `extract`.
    """
    _check_files(source)
    shard_format(settings.format)
    storage = BeamStorage(out)
    claim(storage, settings)
    pending = pending_shards(storage, settings, options.on_error)
    for number in pending:
        _write_listing(storage, source, settings.shard_file(number), settings.rows(number))
    if pending:
        _run(ExtractShards(open_model, settings, out, _root(source), options), pending, runner, flags)
    skipped = write_manifest(storage, settings, source.left_out)
    storage.clear()
    return skipped


def _run(work: beam.DoFn, pending: Sequence[Any], runner: str, flags: Sequence[str]) -> None:
    options = PipelineOptions([f"--runner={_RUNNERS.get(runner, runner)}", *flags])
    try:
        with _ended_by_lost_workers(), beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(pending)
                | "Spread" >> beam.Reshuffle()
                | "Extract" >> beam.ParDo(work)
            )
    except Exception as error:  # a runner wraps a worker's error in its traceback, as text
        lines = [line for line in str(error).splitlines() if any(map(str.isalpha, line))]
        reason = lines or [type(error).__name__]
        raise ExtractionError(f"The Beam pipeline failed: {reason[-1]}") from error
    with contextlib.suppress(NotImplementedError):  # not every runner tells
        found = pipeline.result.metrics().query(MetricsFilter().with_namespace(_COUNTERS))["counters"]
        counts = sorted((counter.key.metric.name, counter.result) for counter in found)
        logging.info("Counted: %s", ", ".join(f"{name} {count}" for name, count in counts))


@contextlib.contextmanager
def _ended_by_lost_workers() -> Iterator[None]:
    """Within, the loss of one of the local runner's worker processes raises in the main thread.

    The runner itself, as of Beam 2.77, learns of it in a thread of its own only, and waits for ever.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"):
        yield
        return
    lost: list[object] = []
    former_hook = threading.excepthook

    def note(failed: threading.ExceptHookArgs) -> None:
        if failed.thread is None or failed.thread.name != "run_worker":
            former_hook(failed)
        elif not lost:
            lost.append(failed.exc_value)
            os.kill(os.getpid(), signal.SIGUSR1)

    def end(*_args) -> None:
        reason = lost[0] if lost else "SIGUSR1"
        raise RuntimeError(f"a worker was lost ({reason}); the same command continues")

    former_handler = signal.signal(signal.SIGUSR1, end)
    threading.excepthook = note
    try:
        yield
    finally:
        threading.excepthook = former_hook
        signal.signal(signal.SIGUSR1, former_handler)


class ExtractShards(beam.DoFn):
    """Numbers of shards in, shards written. The images' names are relative to `root`."""

    def __init__(
        self,
        open_model: Callable[[], FeatureModel],
        settings: Settings,
        out: str,
        root: str,
        options: ExtractOptions,
    ):
        self._open_model = open_model
        self._settings = settings
        self._out = out
        self._root = root
        self._options = options
        self._shared = Shared()  # one model for all threads of a worker
        self._feature_model: FeatureModel | None = None

    def setup(self):
        self._feature_model = self._shared.acquire(self._open)

    def process(self, number: int):
        storage, settings = BeamStorage(self._out), self._settings
        if storage.exists(settings.shard_file(number)):
            return  # a retry of what was done
        assert self._feature_model is not None  # `setup` comes before
        source = _read_listing(storage, settings.shard_file(number), self._root, settings.class_names)
        reader = ImageReader(source, self._feature_model.info.preprocessing, settings.max_pixels)
        first = settings.rows(number).start
        shard = extract_shard(reader, self._feature_model, settings, number, self._options, offset=first)
        write_shard(storage, settings, number, shard)
        for image in shard.skipped:
            logging.warning("skipped %s: %s", image.path, image.reason)
        _count(len(shard.index), len(shard.skipped))

    def _open(self) -> FeatureModel:
        feature_model = self._open_model()
        if not close(check_values(feature_model, tuple(self._settings.outputs)), self._settings.check):
            raise ExtractionError(
                f"The model {self._settings.model} on this worker gives other features than the launcher's"
            )
        return feature_model


def prepare_on_beam(
    source: data.Source,
    out: str,
    options: data.PrepareOptions,
    runner: str,
    flags: Sequence[str],
    made_from: Mapping[str, str] | None = None,
) -> dict[int, str]:
    """`data.prepare` on a cluster: the same shards, and what is there already is kept.

    As of `extract_on_beam`: a worker makes one shard after the other, on a disk of its own, and copies it to
    the folder. Beside it goes a file of what the launcher needs to know of it, until all are there.

    Args:
        source: the images: files, with an address that the workers can read from.
        out: the folder, in any of Beam's file systems.
        options: as of `prepare`.
        runner: of Beam; `DirectRunner` runs in this process.
        flags: further flags of Beam.
        made_from: as of `prepare`.

    Returns:
        The reason for each image that was skipped, by index, those of earlier calls too.

    Raises:
        BadImageError, ValueError, OSError: as `prepare`; ExtractionError if the pipeline fails.
    """
    _check_files(source)
    storage = BeamStorage(out)
    settings = prepared.describe_preparation(source, options, made_from)
    saved = prepared.claim_preparation(storage, settings)
    files, there = prepared.shard_files(settings), storage.names()
    if "shards" in saved and {*files, prepared.INDEX_FILE} <= there:
        skipped = {int(index): reason for index, reason in saved["skipped"].items()}
        prepared.check_skipped(source, skipped, options.on_error)
        return skipped
    pending = [file for file in files if not (file in there and storage.exists(_facts(file)))]
    for file in pending:
        _write_listing(storage, source, file, files[file])
    if pending:
        work = PrepareShards(settings, out, _root(source), options)
        _run(work, [(file, int(files[file][0])) for file in pending], runner, flags)
    facts = [_read_facts(storage, file) for file in files]
    for shard in facts:
        prepared.check_skipped(source, shard["skipped"], options.on_error)
    skipped = prepared.finish_preparation(storage, source, settings, facts)
    storage.clear()
    return skipped


class PrepareShards(beam.DoFn):
    """Pairs of a shard's name and its first index in, shards written; `root` as of `ExtractShards`."""

    def __init__(self, settings: dict[str, Any], out: str, root: str, options: data.PrepareOptions):
        self._settings = settings
        self._out = out
        self._root = root
        self._options = options

    def process(self, element: tuple[str, int]):
        (file, first), storage = element, BeamStorage(self._out)
        there = storage.exists(file)
        if there and storage.exists(_facts(file)):
            return  # a retry of what was done
        with tempfile.TemporaryDirectory(prefix="rfd_prepare_") as folder:
            local = Path(folder) / file
            if there:  # written without Beam, or by a worker that was lost just then
                with storage.open(file) as shard, open(local, "wb") as copy:
                    shutil.copyfileobj(shard, copy)
                facts = prepared.read_shard_facts(local, self._settings)
            else:
                facts = self._write(storage, local, first)
                with open(local, "rb") as shard, storage.write(file) as copy:
                    shutil.copyfileobj(shard, copy)
        storage.write_text(_facts(file), json.dumps(facts))

    def _write(self, storage: BeamStorage, local: Path, first: int) -> dict[str, Any]:
        source = _read_listing(storage, local.name, self._root)

        def check(skipped: Mapping[int, str]) -> None:
            here = {index - first: reason for index, reason in skipped.items()}
            prepared.check_skipped(source, here, self._options.on_error)

        records = prepared.Records(source, self._options).of(np.arange(len(source)))
        rows = first + np.arange(len(source))
        facts = prepared.write_shard(local, records, rows, self._settings, check)
        _count(len(source) - len(facts["skipped"]), len(facts["skipped"]))
        return facts


def _read_facts(storage: BeamStorage, file: str) -> dict[str, Any]:
    facts = parse_json(storage.read(_facts(file)))
    if not (isinstance(facts, dict) and fits(facts.get("skipped"), dict[str, str])):
        raise ValueError(f"{storage.location}/{_facts(file)} is damaged: delete it")
    return facts


def _count(images: int, skipped: int) -> None:
    for name, count in (("shards", 1), ("images", images), ("skipped", skipped)):
        Metrics.counter(_COUNTERS, name).inc(count)


def _check_files(source: data.Source) -> None:
    if getattr(source, "files", None) is None:
        raise ValueError(f"On Beam the images must be files. Received: {source.name}")


def _write_listing(storage: BeamStorage, source: Any, shard: str, rows: Sequence[int] | np.ndarray) -> None:
    """The part of the images' list that is a shard's: indices that follow one another."""
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    labels = None if source.labels is None else source.labels[part].tolist()
    storage.write_text(_listing(shard), json.dumps({"files": source.files[part], "labels": labels}))


def _read_listing(
    storage: BeamStorage, shard: str, root: str, class_names: tuple[str, ...] | None = None
) -> BeamFiles:
    listing = json.loads(storage.read(_listing(shard)))
    return BeamFiles(root, listing["files"], listing["labels"], class_names)


def _listing(shard: str) -> str:
    return f"{_TEMPORARY[0]}{shard}.json"


def _facts(shard: str) -> str:
    return f"{_TEMPORARY[1]}{shard}.json"


def _root(source: Any) -> str:
    root = os.fspath(source.root)
    return root if "://" in root else os.path.abspath(root)
