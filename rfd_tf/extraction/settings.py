"""What the shards of a folder have in common."""

import dataclasses
import json
import math

import numpy as np

from rfd_tf.data import Source
from rfd_tf.extraction.names import listing_digest
from rfd_tf.extraction.storage import Storage
from rfd_tf.extraction.weights_check import check_values, close
from rfd_tf.extractors import FeatureExtractor, ModelInfo
from rfd_tf.json_text import fits, parse_json
from rfd_tf.training.workdir import differences

SETTINGS_FILE = "settings.json"
MANIFEST_FILE = "manifest.json"
FORMATS = ("parquet", "npz")
DTYPES = ("float32", "float16")
FORMAT = 1
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
        check: some values of each output for a fixed picture, by which other weights are known.
        images: location of the pictures.
        num_images: N.
        listing: digest of the pictures' names and labels.
        labelled: whether they have labels.
        class_names: of the labels, or None.
        format: of the shards, one of FORMATS.
        dtype: of the features, one of DTYPES.
        shard_size: pictures of a shard.
        max_pixels: of a picture.

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
    format: str
    dtype: str
    shard_size: int
    max_pixels: int

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
                f"A shard of {self.shard_size} pictures with {', '.join(self.outputs)} takes "
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
        fields = {"format_version": FORMAT} | dataclasses.asdict(self) | {"info": self.info.to_json()}
        return json.loads(json.dumps(fields | {"info": parse_json(fields["info"])}))

    @classmethod
    def from_dict(cls, fields: dict, where: str) -> "Settings":
        """What `to_dict` gave, read from `where`; ExtractionError on anything else."""
        try:
            fields = dict(fields)
            if fields.pop("format_version") > FORMAT:
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
    extractor: FeatureExtractor, model: str, source: Source, images: str, outputs: list[str], **options
) -> Settings:
    """The settings of an extraction.

    Args:
        extractor, model: the open model and its location.
        source, images: the open pictures and their location.
        outputs: those to keep.
        **options: `format`, `dtype`, `shard_size`, `max_pixels`.
    """
    outputs = extractor.check_names(outputs)
    return Settings(
        model=model,
        info=extractor.info,
        outputs={name: tuple(extractor.info.outputs[name]) for name in outputs},
        check=check_values(extractor, outputs),
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
                raise ValueError("it is no object")
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
