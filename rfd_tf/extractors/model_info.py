"""What travels with a model in every form: how its images are prepared and what it gives."""

import dataclasses
import itertools
import json
import typing

import numpy as np

from rfd_tf.data.preprocessing import Preprocessing
from rfd_tf.json_text import fits, parse_json

FORMAT = 1
NORMALIZED, UINT8 = "normalized", "uint8"
INPUTS = (NORMALIZED, UINT8)
# Fields of `Preprocessing` that came after the first release: false where a description lacks them, and left
# out where they are false, so that what was written before stays the same, fingerprints included.
_ADDED = ("exif_orientation",)


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Facts of a feature model.

    Attributes:
        name: letters, digits, `_`, `-` and `.`; the name that it is served under.
        preprocessing: its `eval_image` prepares a picture; image_size S.
        outputs: shape of each output for one image, in order: `features`, then for models of RFD `rotation`
            and `invariant`, then feature maps, `rotation_probabilities`, `embedding`.
        input: `"normalized"`: float32 [B, S, S, 3], prepared entirely; `"uint8"`: RGB pixels [B, S, S, 3] of
            the resized and cropped picture, normalised inside.
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
        pixels = images * np.float32(self.preprocessing.std) + np.float32(self.preprocessing.mean)
        return np.clip(np.rint(pixels * 255), 0, 255).astype("uint8")

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Normalised float32 images of RGB pixels in 0..255 of the same shape."""
        mean, std = np.float32(self.preprocessing.mean), np.float32(self.preprocessing.std)
        return ((pixels.astype("float32") / np.float32(255) - mean) / std).astype("float32")

    def to_json(self) -> str:
        """One line of JSON, which `from_json` reads."""
        fields = dataclasses.asdict(self)
        for name in _ADDED:
            if not fields["preprocessing"][name]:
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
            preprocessing = dict.fromkeys(_ADDED, False) | fields.pop("preprocessing")
            for name, kind in typing.get_type_hints(Preprocessing).items():
                if name in preprocessing and not fits(preprocessing[name], kind):
                    raise ValueError(f"its {name} is {preprocessing[name]!r:.80}")
            for statistic in ("mean", "std"):
                preprocessing[statistic] = tuple(map(float, preprocessing[statistic]))
            preprocessing["color_jitter"] = tuple(preprocessing.get("color_jitter", ()))
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
