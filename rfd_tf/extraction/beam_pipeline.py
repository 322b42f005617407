"""Features of a collection of pictures, by Apache Beam."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence

import apache_beam as beam
from absl import logging
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from rfd_tf import data
from rfd_tf.extraction.beam_files import BeamFiles
from rfd_tf.extraction.beam_storage import BeamStorage
from rfd_tf.extraction.extract_shard import extract_shard
from rfd_tf.extraction.manifest import pending_shards, write_manifest
from rfd_tf.extraction.picture_reader import PictureReader
from rfd_tf.extraction.settings import ExtractionError, Settings, claim
from rfd_tf.extraction.shard import Skipped, shard_format, write_shard
from rfd_tf.extraction.weights_check import check_values, close
from rfd_tf.extractors import FeatureExtractor

# Beam's own DirectRunner first looks for Prism, a Go program, and downloads it where it is missing.
_RUNNERS = {"DirectRunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner"}
_COUNTERS = "rfd_tf"


def extract_on_beam(
    open_model: Callable[[], FeatureExtractor],
    source: data.Source,
    settings: Settings,
    out: str,
    runner: str,
    flags: Sequence[str] = (),
    batch_size: int = 64,
    on_error: str = "skip",
) -> list[Skipped]:
    """`extract` on a cluster: the same shards and manifest, and what is there already is kept.

    The launcher lists the pictures and writes each shard's part of the list into the folder; a worker opens
    the model once, and makes one shard after the other. A shard appears whole, so that retries do no harm.
    Counted for each worker and shown by the runner: `rfd_tf/pictures`, `skipped`, `shards`.

    Args:
        open_model: opens the model on a worker; it must pickle.
        source: the pictures: files, with an address that the workers can read from.
        settings: `settings.describe_extraction`.
        out: the folder, in any of Beam's file systems.
        runner: of Beam; `DirectRunner` runs in this process.
        flags: further flags of Beam.
        batch_size, on_error: as of `extract`.

    Returns:
        The skipped pictures, those of earlier calls too.

    Raises:
        ExtractionError: as `extract`, and if the pipeline fails.
        BadImageError, ValueError, OSError: as `extract`.
    """
    if getattr(source, "files", None) is None:
        raise ValueError(f"On Beam the pictures must be files. Received: {source.name}")
    shard_format(settings.format)
    storage = BeamStorage(out)
    claim(storage, settings)
    pending = pending_shards(storage, settings, on_error)
    for number in pending:
        _write_listing(storage, source, settings, number)
    if pending:
        work = ExtractShards(open_model, settings, out, _root(source), batch_size, on_error)
        _run(work, pending, PipelineOptions([f"--runner={_RUNNERS.get(runner, runner)}", *flags]))
    skipped = write_manifest(storage, settings, source.left_out)
    with contextlib.suppress(OSError):  # left behind they do no harm
        storage.delete([_listing(settings, number) for number in pending])
    return skipped


def _run(work: beam.DoFn, pending: list[int], options: PipelineOptions) -> None:
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(pending)
                | "Spread" >> beam.Reshuffle()
                | "Extract" >> beam.ParDo(work)
            )
    except Exception as error:  # a runner wraps a worker's error in its traceback, as text
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExtractionError(f"The Beam pipeline failed: {reason[-1]}") from error
    with contextlib.suppress(NotImplementedError):  # not every runner tells
        found = pipeline.result.metrics().query(MetricsFilter().with_namespace(_COUNTERS))["counters"]
        counts = sorted((counter.key.metric.name, counter.result) for counter in found)
        logging.info("Counted: %s", ", ".join(f"{name} {count}" for name, count in counts))


class ExtractShards(beam.DoFn):
    """Numbers of shards in, shards written.

    Args:
        open_model, settings, out, batch_size, on_error: as of `extract_on_beam`.
        root: folder that the pictures' names are relative to.
    """

    def __init__(
        self,
        open_model: Callable[[], FeatureExtractor],
        settings: Settings,
        out: str,
        root: str,
        batch_size: int,
        on_error: str,
    ):
        self._open_model = open_model
        self._settings = settings
        self._out = out
        self._root = root
        self._batch_size = batch_size
        self._on_error = on_error
        self._shared = Shared()  # one model for all threads of a worker
        self._extractor: FeatureExtractor | None = None

    def setup(self):
        self._extractor = self._shared.acquire(self._open)

    def process(self, number: int):
        storage, settings = BeamStorage(self._out), self._settings
        if storage.exists(settings.shard_file(number)):
            return  # a retry of what was done
        listing = json.loads(storage.read(_listing(settings, number)))
        source = BeamFiles(self._root, listing["files"], listing["labels"], settings.class_names)
        reader = PictureReader(source, self._extractor.info.preprocessing, settings.max_pixels)
        first = settings.rows(number).start
        shard = extract_shard(
            reader, self._extractor, settings, number, self._batch_size, self._on_error, offset=first
        )
        write_shard(storage, settings, number, shard)
        for picture in shard.skipped:
            logging.warning("skipped %s: %s", picture.path, picture.reason)
        for name, count in (("shards", 1), ("pictures", len(shard.index)), ("skipped", len(shard.skipped))):
            Metrics.counter(_COUNTERS, name).inc(count)

    def _open(self) -> FeatureExtractor:
        extractor = self._open_model()
        if not close(check_values(extractor, tuple(self._settings.outputs)), self._settings.check):
            raise ExtractionError(
                f"The model {self._settings.model} on this worker gives other features than the launcher's"
            )
        return extractor


def _write_listing(storage: BeamStorage, source: data.Source, settings: Settings, number: int) -> None:
    rows = settings.rows(number)
    part = slice(rows.start, rows.stop)
    labels = None if source.labels is None else source.labels[part].tolist()
    storage.write_text(
        _listing(settings, number), json.dumps({"files": source.files[part], "labels": labels})
    )


def _listing(settings: Settings, number: int) -> str:
    return f".listing-{number:05}-of-{settings.num_shards:05}.json"


def _root(source: data.Source) -> str:
    root = os.fspath(source.root)
    return root if "://" in root else os.path.abspath(root)
