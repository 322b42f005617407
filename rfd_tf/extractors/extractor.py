"""The one interface to a feature model, whatever its form."""

import abc
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfd_tf.extractors.model_info import UINT8, ModelInfo


class FeatureExtractor(abc.ABC):
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
        if not np.isfinite(images).all():
            bad = [i for i, image in enumerate(images) if not np.isfinite(image).all()]
            raise ValueError(f"`images` must be finite: image {bad[0]} of the batch is not")
        return images.astype("float32", copy=False)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash that tells whether the model is still the same: of its facts and its files' contents.

        Of a server only the address is known here; its extractor adds the version.
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
        """Release what the extractor holds."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
