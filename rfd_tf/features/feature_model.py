"""A feature model: what it is, and the interface of all its forms."""

import abc
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.data import ArraySource, Source, evaluation_dataset, first_bad_image, open_images
from rfd_tf.data.image_folder import ImageFiles, has_image_ending
from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.files import fits, parse_json
from rfd_tf.models.inference import feature_map_names

FORMAT = 1
NORMALIZED, UINT8 = "normalized", "uint8"
INPUTS = (NORMALIZED, UINT8)
# Fields of `Preprocessing` that came after the first release, and what they are where a description lacks
# them. It leaves them out where they are that: what was written before stays the same, fingerprints included.
_ADDED: dict[str, typing.Any] = {
    "exif_orientation": False,
    "augment": (),
    "rand_augment_ops": 2,
    "rand_augment_magnitude": 0.5,
    "mixup_alpha": 0.2,
}


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Facts of a feature model.

    Attributes:
        name: letters, digits, `_`, `-` and `.`; the name that it is served under.
        preprocessing: its `eval_image` prepares an image; image_size S.
        outputs: shape of each output for one image, in order: `features`, then for models of RFD `rotation`
            and `invariant`, then feature maps, `rotation_probabilities`, `embedding`.
        input: `"normalized"`: float32 [B, S, S, 3], prepared entirely; `"uint8"`: RGB pixels [B, S, S, 3] of
            the resized and cropped image, normalised inside.
        class_names: of the C classes that an output `logits` [C] scores, in order; () if unknown.

    Raises:
        ValueError: on a value out of range.
    """

    name: str
    preprocessing: Preprocessing
    outputs: dict[str, tuple[int, ...]]
    input: str = NORMALIZED
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.name or not all(c.isalnum() or c in "_-." for c in self.name):
            raise ValueError(f"`name` must be of letters, digits, '_', '-' and '.'. Received: {self.name!r}")
        if self.input not in INPUTS:
            raise ValueError(f"`input` must be one of {INPUTS}. Received: input={self.input!r}")
        if not self.outputs or min(itertools.chain(*self.outputs.values()), default=1) < 1:
            raise ValueError(f"`outputs` needs shapes of positive sizes. Received: {self.outputs}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[S, S, 3]."""
        return (self.preprocessing.image_size, self.preprocessing.image_size, 3)

    def to_pixels(self, images: np.ndarray) -> np.ndarray:
        """The uint8 RGB pixels nearest to normalised images of the same shape."""
        mean, std = self._statistics
        return np.clip(np.rint((images * std + mean) * 255), 0, 255).astype("uint8")

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Normalised float32 images of RGB pixels in 0..255 of the same shape."""
        mean, std = self._statistics
        return ((pixels.astype("float32") / np.float32(255) - mean) / std).astype("float32")

    @property
    def _statistics(self) -> np.ndarray:
        return np.asarray([self.preprocessing.mean, self.preprocessing.std], "float32")

    def to_json(self) -> str:
        """One line of JSON, which `from_json` reads."""
        fields = dataclasses.asdict(self)
        for name, left_out in _ADDED.items():
            if fields["preprocessing"][name] == left_out:
                del fields["preprocessing"][name]
        if not self.class_names:
            del fields["class_names"]  # earlier versions read what has none
        return json.dumps({"format": FORMAT, **fields})

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "ModelInfo":
        """Read what `to_json` wrote.

        Args:
            text: the JSON.
            where: file or server that it came from, for the error.

        Raises:
            ValueError: if it is something else, or of a newer format.
        """
        try:
            fields = parse_json(text)
            if fields.pop("format") > FORMAT:
                raise ValueError("it was written by a newer version")
            preprocessing = _ADDED | fields.pop("preprocessing")
            check_preprocessing(preprocessing)
            for statistic in ("mean", "std"):
                preprocessing[statistic] = tuple(map(float, preprocessing[statistic]))
            for name in ("color_jitter", "augment"):
                preprocessing[name] = tuple(preprocessing.get(name, ()))
            outputs = {name: tuple(map(int, shape)) for name, shape in fields.pop("outputs").items()}
            if not fits(class_names := fields.pop("class_names", []), list[str]):
                raise ValueError(f"its class_names are {class_names!r:.80}")
            return cls(
                preprocessing=Preprocessing(**preprocessing),
                outputs=outputs,
                class_names=tuple(class_names),
                **fields,
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"{where}: no valid description of a feature model ({error})") from error


def check_preprocessing(fields: Mapping) -> None:
    """Raises ValueError where a field of a `Preprocessing` in JSON is of another type."""
    for name, kind in typing.get_type_hints(Preprocessing).items():
        if name in fields and not fits(fields[name], kind):
            raise ValueError(f"its {name} is {fields[name]!r:.80}")


class FeatureModel(abc.ABC):
    """Images in, named features out; a context manager.

    Attributes:
        info: the model's facts.
        location: where the model is, as the user gave it.
    """

    def __init__(self, info: ModelInfo, location: str):
        self.info = info
        self.location = location

    def __call__(self, images: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Features of a batch.

        Args:
            images: float32 [B, S, S, 3], prepared by `info.preprocessing` (also where the model takes uint8:
                they are turned back into pixels).
            names: the outputs wanted; all by default.

        Returns:
            name -> float32 [B, ...], in the order asked for.

        Raises:
            ValueError: on an empty batch, another shape or dtype, values that are not finite, unknown names.
        """
        names = self.check_names(names)
        images = self._checked(images)
        if self.info.input == UINT8:
            images = self.info.to_pixels(images)
        found = self._extract(images, names)
        return {name: np.asarray(found[name], dtype="float32") for name in names}

    def features(self, images, output: str = "features", batch_size: int = 64) -> np.ndarray:
        """Features of images as they are: read, resized, cut out and normalised as the model wants them.

        Args:
            images: uint8 arrays of RGB [N, H, W, 3], paths of image files, one path of an image, a folder, a
                list of images or an `.npz` file (`data.open_images`), or a `data.Source`.
            output: the output wanted.
            batch_size: images that the model is given at once.

        Returns:
            float32 [N, ...], in the order of the images; a folder's is that of `open_images(folder).files`.

        Raises:
            BadImageError: on an image that cannot be read, naming it. `rfd_tf.extract` skips such images.
            ValueError: on images of another kind, or an output that the model has not.
        """
        (output,) = self.check_names([output])
        source, found = _source_of(images), []
        try:
            batches = evaluation_dataset(source, self.info.preprocessing, batch_size)
            for pixels in batches.map(lambda features, *_label: features["image"]):
                found.append(self(pixels.numpy(), [output])[output])
        except tf.errors.OpError as error:
            raise first_bad_image(source) or error from error
        return np.concatenate(found)

    @abc.abstractmethod
    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The outputs `names` (or more) of a valid batch: float32, or uint8 where `info.input` says so."""

    def check_names(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """`names`, or all outputs, as a tuple; unknown ones raise ValueError."""
        names = tuple(self.info.outputs) if names is None else tuple(names)
        if unknown := [name for name in names if name not in self.info.outputs]:
            raise ValueError(
                f"{self.location} has no output {unknown[0]!r}; it has {', '.join(self.info.outputs)}"
            )
        return names

    def _checked(self, images) -> np.ndarray:
        images = np.asarray(images)
        expected = self.info.image_shape
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"`images` must have shape [B, {', '.join(map(str, expected))}]. Received {images.shape}"
            )
        if len(images) == 0:
            raise ValueError("`images` is an empty batch")
        if images.dtype.kind != "f":
            raise ValueError(f"`images` must be normalised float32. Received dtype {images.dtype}")
        finite = np.isfinite(images).all(axis=(1, 2, 3))
        if not finite.all():
            raise ValueError(f"`images` must be finite: image {finite.argmin()} of the batch is not")
        return images.astype("float32", copy=False)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash that tells whether the model is still the same: of its facts and its files' contents.

        Of a server only the address is known here; its feature model adds the version.
        """
        digest = hashlib.sha256(self.info.to_json().encode())
        location = Path(self.location)
        if not location.exists():
            digest.update(self.location.encode())
            return digest.hexdigest()
        files = sorted(location.rglob("*")) if location.is_dir() else [location]
        for file in filter(Path.is_file, files):
            digest.update(str(file.relative_to(location)).encode() + b"\0")
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()

    def close(self) -> None:  # noqa: B027  most hold nothing
        """Release what the feature model holds."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _source_of(images) -> Source:
    """What `FeatureModel.features` is given, as a source."""
    if isinstance(images, Source):
        return images
    if isinstance(images, (str, os.PathLike)):
        if not has_image_ending(os.fspath(images)):
            return open_images(images)
        images = [images]
    if isinstance(images, Sequence) and images and isinstance(images[0], (str, os.PathLike)):
        paths = [Path(path).resolve() for path in images]
        root = Path(paths[0].anchor)
        return ImageFiles(root, [path.relative_to(root).as_posix() for path in paths], None, None)
    return ArraySource(np.asarray(images))


def check_feature_maps(info: ModelInfo, feature_maps: Sequence[str] | None, location: str) -> None:
    """Raises ValueError, naming `location`, where a model does not give one of `feature_maps`."""
    maps = feature_map_names(info.outputs)
    if unknown := [name for name in feature_maps or () if name not in maps]:
        raise ValueError(f"{location} has no feature map {unknown[0]!r}; it has: {', '.join(maps) or 'none'}")
