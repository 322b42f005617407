"""What a served model takes and gives."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from rfd_tf.json_text import parse_json
from rfd_tf.serving.errors import BadInputError, ServingError


class ServedModel:
    """The facts of a served model, and the checks that follow from them.

    Args:
        answer: of its signature `about`.
        where: the server's address.

    Attributes:
        facts: as `extractors.ModelInfo.to_json` gives them.
        image_shape: [S, S, 3].
        dtype: of the images it takes, `float32` or `uint8`.
        outputs: name -> shape for one image.

    Raises:
        ServingError: if the answer describes no feature model.
    """

    def __init__(self, answer: dict[str, np.ndarray], where: str):
        self._where = where
        try:
            self.facts = parse_json(np.asarray(answer["json"]).item())
            size = int(self.facts["preprocessing"]["image_size"])
            self.outputs = {name: tuple(map(int, shape)) for name, shape in self.facts["outputs"].items()}
            self.dtype = "uint8" if self.facts["input"] == "uint8" else "float32"
            if size < 1 or any(side < 0 for shape in self.outputs.values() for side in shape):
                raise ValueError("a size is negative")
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ServingError(f"{where} gives no valid description of a feature model") from error
        self.image_shape = (size, size, 3)

    def numbers(self, names: Iterable[str]) -> int:
        """How many numbers these outputs have for one image."""
        return sum(math.prod(self.outputs[name]) for name in names)

    def check_names(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """`names`, or all outputs; unknown ones raise BadInputError."""
        names = tuple(self.outputs) if names is None else tuple(names)
        if not names:
            raise BadInputError("`names` is empty: no output is asked for")
        if unknown := [name for name in names if name not in self.outputs]:
            raise BadInputError(
                f"{self._where} has no output {unknown[0]!r}; it has {', '.join(self.outputs)}"
            )
        return names

    def check_images(self, images) -> np.ndarray:
        """`images` as an array of the model's dtype; BadInputError if they are not what it takes."""
        images = np.asarray(images)
        expected = ", ".join(map(str, self.image_shape))
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise BadInputError(f"`images` must have shape [B, {expected}]. Received {images.shape}")
        if len(images) == 0:
            raise BadInputError("`images` is an empty batch")
        if self.dtype == "uint8":
            if images.dtype != np.uint8:
                raise BadInputError(
                    f"`images` must be uint8: the model normalises itself. Received dtype {images.dtype}"
                )
            return images
        if images.dtype.kind != "f":
            raise BadInputError(f"`images` must be normalised float32. Received dtype {images.dtype}")
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            images = images.astype("float32", copy=False)
        finite = np.isfinite(images).all(axis=(1, 2, 3))
        if not finite.all():
            raise BadInputError(f"`images` must be finite: image {np.argmin(finite)} of the batch is not")
        return images

    def check_answer(
        self, answer: dict[str, np.ndarray], names: Sequence[str], count: int
    ) -> dict[str, np.ndarray]:
        """The outputs `names` for `count` images, float32; ServingError if one is missing or misshapen."""
        for name in names:
            if name not in answer:
                raise ServingError(f"{self._where}: the answer lacks the output {name!r}")
            expected = (count, *self.outputs[name])
            if answer[name].shape != expected or answer[name].dtype.kind != "f":
                raise ServingError(
                    f"{self._where}: the output {name!r} must be of shape {expected}. Received "
                    f"{answer[name].dtype} of shape {answer[name].shape}"
                )
        return {name: answer[name].astype("float32", copy=False) for name in names}
