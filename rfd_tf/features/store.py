"""Features on disk: settings, shards and manifest, in a local folder or elsewhere."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rfd_tf.data import BadImageError, Source
from rfd_tf.data.source import listing_digest
from rfd_tf.features.feature_model import FeatureModel, ModelInfo
from rfd_tf.features.shard_formats import shard_format
from rfd_tf.files import Storage, differences, fits, parse_json
from rfd_tf.image_header import MAX_PIXELS

SETTINGS_FILE = "settings.json"
MANIFEST_FILE = "manifest.json"
FORMATS = ("parquet", "npz")
DTYPES = ("float32", "float16")
SETTINGS_FORMAT = 1
MAX_SHARD_BYTES = 2**30  # of features: a shard is made in memory
# Columns, or what NumPy's `savez` would take for arguments of its own.
RESERVED = ("index", "path", "label", "metadata", "file", "allow_pickle")


class ExtractionError(ValueError):
    """The folder cannot take these features."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that a shard's content depends on.

    Attributes:
        model: location of the model.
        info: its facts.
        outputs: shape of each output that is kept.
        check: some values of each output for a fixed image, by which other weights are known.
        images: location of the images.
        num_images: N.
        listing: digest of the images' names and labels.
        labelled: whether they have labels.
        class_names: of the labels, or None.
        format: of the shards, one of FORMATS.
        dtype: of the features, one of DTYPES.
        shard_size: images of a shard.
        max_pixels: of an image.

    Raises:
        ValueError: on a value out of range, an output whose name is taken, or shards too large for memory.
    """

    model: str
    info: ModelInfo
    outputs: dict[str, tuple[int, ...]]
    check: dict[str, list[float]]
    images: str
    num_images: int
    listing: str
    labelled: bool
    class_names: tuple[str, ...] | None
    format: str = "parquet"
    dtype: str = "float32"
    shard_size: int = 4096
    max_pixels: int = MAX_PIXELS

    def __post_init__(self):
        for name, value, allowed in (("format", self.format, FORMATS), ("dtype", self.dtype, DTYPES)):
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}. Received: {value!r}")
        for name in ("shard_size", "max_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}")
        if taken := [name for name in self.outputs if name in RESERVED]:
            raise ValueError(f"An output cannot be named {taken[0]!r}: the shards use that name themselves")
        size = np.dtype(self.dtype).itemsize * sum(math.prod(shape) for shape in self.outputs.values())
        if size * min(self.shard_size, self.num_images) > MAX_SHARD_BYTES:
            raise ValueError(
                f"A shard of {self.shard_size} images with {', '.join(self.outputs)} takes "
                f"{size * self.shard_size / 2**30:.1f} GiB, made in memory: give a `shard_size` of at most "
                f"{max(1, MAX_SHARD_BYTES // size)}"
            )

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.shard_size)

    def shard_file(self, number: int) -> str:
        return f"features-{number:05}-of-{self.num_shards:05}.{self.format}"

    def rows(self, number: int) -> range:
        """Instance indices of a shard."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.num_images))

    def to_dict(self) -> dict:
        """JSON values."""
        fields = {"format_version": SETTINGS_FORMAT, **dataclasses.asdict(self)}
        return json.loads(json.dumps(fields | {"info": parse_json(self.info.to_json())}))

    @classmethod
    def from_dict(cls, fields: dict, where: str) -> "Settings":
        """What `to_dict` gave, read from `where`; ExtractionError on anything else."""
        try:
            fields = dict(fields)
            if fields.pop("format_version") > SETTINGS_FORMAT:
                raise ValueError("it was written by a newer version")
            for field in dataclasses.fields(cls):
                if field.name != "info" and not fits(fields[field.name], field.type):
                    raise ValueError(f"its field {field.name} is {fields[field.name]!r:.80}")
            fields["info"] = ModelInfo.from_json(json.dumps(fields["info"]), where)
            fields["outputs"] = {name: tuple(shape) for name, shape in fields["outputs"].items()}
            names = fields["class_names"]
            return cls(**fields | {"class_names": None if names is None else tuple(names)})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExtractionError(f"{where}: not written by `rfd extract` ({error})") from error

    def differences(self, other: dict) -> list[str]:
        """Where `other`, of another `to_dict`, differs, for people."""
        mine, other = self.to_dict(), dict(other)
        if close(mine["check"], other.get("check")):
            other["check"] = mine["check"]
        found = differences(other, mine)
        return [text for text in found if not text.startswith("check.")] or [
            "the model's weights: it gives other features now" for _ in found[:1]
        ]


def describe_extraction(
    feature_model: FeatureModel, model: str, source: Source, images: str, outputs: list[str], **options
) -> Settings:
    """The settings of an extraction by the model at `model`, of the images at `images`.

    `options` are the fields `format`, `dtype`, `shard_size` and `max_pixels` of `Settings`.
    """
    outputs = feature_model.check_names(outputs)
    return Settings(
        model=model,
        info=feature_model.info,
        outputs={name: tuple(feature_model.info.outputs[name]) for name in outputs},
        check=check_values(feature_model, outputs),
        images=images,
        num_images=len(source),
        listing=listing_digest(source),
        labelled=source.labels is not None,
        class_names=source.class_names,
        **options,
    )


def claim(storage: Storage, settings: Settings) -> None:
    """Make the folder that of these settings, before anything is written to it.

    Raises:
        ExtractionError: if it holds features of other settings (the differing ones are named), or files that
            are none of ours.
    """
    names = storage.names()
    if SETTINGS_FILE in names:
        where = f"{storage.location}/{SETTINGS_FILE}"
        try:
            saved = parse_json(storage.read(SETTINGS_FILE))
            if not isinstance(saved, dict):
                raise ValueError("it is not an object")
        except ValueError as error:
            raise ExtractionError(f"{where}: not written by `rfd extract` ({error})") from error
        if found := settings.differences(saved):
            raise ExtractionError(f"{storage.location} holds features of other settings. " + "; ".join(found))
    elif names:
        raise ExtractionError(
            f"{storage.location} holds {sorted(names)[0]!r} and no {SETTINGS_FILE}: give a new folder"
        )
    else:
        storage.write_text(SETTINGS_FILE, json.dumps(settings.to_dict(), indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An image that could not be used.

    Attributes:
        index: its instance index.
        path: its name, as in the shards.
        reason: why, in one line.
    """

    index: int
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """Features of n images.

    Attributes:
        index: int64 [n], instance indices, ascending.
        paths: n names (`image_name`).
        labels: int64 [n] or None.
        features: name -> [n, ...].
        skipped: the other images of the shard's rows.
    """

    index: np.ndarray
    paths: list[str]
    labels: np.ndarray | None
    features: dict[str, np.ndarray]
    skipped: list[Skipped]


def write_shard(storage: Storage, settings: Settings, number: int, shard: Shard) -> None:
    """Write a shard, whole or not at all, with its settings, the rows it covers and what was skipped."""
    rows = settings.rows(number)
    metadata = json.dumps(
        {
            "settings": settings.to_dict(),
            "first": rows.start,
            "stop": rows.stop,
            "skipped": [dataclasses.asdict(image) for image in shard.skipped],
        }
    )
    with storage.write(settings.shard_file(number)) as file:
        shard_format(settings.format).write(file, shard, settings, metadata)


def read_shard(storage: Storage, settings: Settings, number: int, outputs: list[str]) -> Shard:
    """Read a shard with some of its outputs.

    Raises:
        ExtractionError: if it is damaged or of other settings.
        FileNotFoundError: if there is none.
    """
    name = settings.shard_file(number)
    skipped = read_skipped(storage, settings, number)
    with storage.open(name) as file, _naming(storage, name):
        columns = shard_format(settings.format).read(file, outputs, settings)
    index, paths, labels, features = columns
    return Shard(index, paths, labels, features, skipped)


def read_skipped(storage: Storage, settings: Settings, number: int) -> list[Skipped]:
    """The skipped images of a shard, from its metadata; errors as `read_shard`."""
    name = settings.shard_file(number)
    with storage.open(name) as file, _naming(storage, name):
        metadata = parse_json(shard_format(settings.format).read_metadata(file))
        skipped = [Skipped(**fields) for fields in metadata["skipped"]]
        found = settings.differences(metadata["settings"])
    if found:
        raise ExtractionError(f"{storage.location}/{name} is of other settings. " + "; ".join(found))
    return skipped


@contextlib.contextmanager
def _naming(storage: Storage, name: str) -> Iterator[None]:
    """Errors of reading a damaged file name it."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # zipfile, NumPy and Arrow each have their own
        raise ExtractionError(f"{storage.location}/{name} is damaged ({error}): delete it") from error


MANIFEST_FORMAT = 1
_PACKAGES = ("rfd_tf", "tensorflow", "keras", "numpy", "pyarrow")


def pending_shards(storage: Storage, settings: Settings, on_error: str = "skip") -> list[int]:
    """The shards that are not there yet.

    Raises:
        ExtractionError: if one that is there is damaged or of other settings.
        BadImageError: if one has skipped an image and `on_error` is `"raise"`.
    """
    names, pending = storage.names(), []
    for number in range(settings.num_shards):
        if settings.shard_file(number) not in names:
            pending.append(number)
        elif (skipped := read_skipped(storage, settings, number)) and on_error == "raise":
            raise BadImageError(f"{skipped[0].path}: {skipped[0].reason} (skipped earlier)")
    return pending


def write_manifest(
    storage: Storage, settings: Settings, left_out: Mapping[str, int] | None = None
) -> list[Skipped]:
    """Write `manifest.json` once every shard is there; the skipped images. `left_out` is the source's.

    Raises:
        BadImageError: if no image could be used.
        ExtractionError: if a shard is missing, damaged or of other settings.
    """
    shards, skipped = [], []
    for number in range(settings.num_shards):
        bad = read_skipped(storage, settings, number)
        rows = settings.rows(number)
        skipped += bad
        shards.append(
            {
                "file": settings.shard_file(number),
                "first": rows.start,
                "stop": rows.stop,
                "rows": len(rows) - len(bad),
            }
        )
    if len(skipped) == settings.num_images:
        raise BadImageError(
            f"None of the {len(skipped)} images can be used, as {skipped[0].path}: {skipped[0].reason}"
        )
    manifest = {
        "format": MANIFEST_FORMAT,
        "pictures": settings.num_images,
        "extracted": settings.num_images - len(skipped),
        "outputs": settings.outputs,
        "dtype": settings.dtype,
        "shards": shards,
        "skipped": [dataclasses.asdict(image) for image in skipped],
        "left_out": dict(left_out or {}),
        "settings": settings.to_dict(),
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    storage.write_text(MANIFEST_FILE, json.dumps(manifest, indent=1) + "\n")
    return skipped


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


_VALUES = 8
_TOLERANCE = 1e-2  # relative: devices and runtimes differ by less, other weights by more


def check_values(feature_model: FeatureModel, outputs: Sequence[str]) -> dict[str, list[float]]:
    """A few values of each output for a fixed image; ValueError where they are not finite."""
    rows, columns, _ = np.indices(feature_model.info.image_shape)
    channel = np.arange(3)
    pixels = (rows * (3 + channel) + columns * (5 - channel) + 40 * channel) % 256
    features = feature_model(feature_model.info.normalize(pixels.astype("uint8"))[None], outputs)
    found = {}
    for name, value in features.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{feature_model.location}: its output {name!r} is not finite for a plain image")
        flat = value.ravel()
        picked = flat[np.linspace(0, len(flat) - 1, _VALUES).astype("int64")]
        found[name] = [float(np.sqrt((flat.astype("float64") ** 2).mean())), *map(float, picked)]
    return found


def close(here: dict, there: dict | None) -> bool:
    """Whether `check_values` are of the same weights; each begins with the size of the output."""
    if there is None or not fits(there, dict[str, list[float]]) or here.keys() != there.keys():
        return False
    return all(
        len(there[name]) == len(values)
        and np.allclose(there[name], values, rtol=0, atol=_TOLERANCE * max(values[0], 1e-12))
        for name, values in here.items()
    )
