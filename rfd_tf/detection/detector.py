"""A trained detector, in memory and as a file."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.detection.detect import DetectionOptions, Detections, detect
from rfd_tf.json_text import parse_json
from rfd_tf.models import FastRCNN
from rfd_tf.models.keras_file import facts_inside, read_keras, write_keras
from rfd_tf.precision import to_float32

DETECTOR_FILE = "detector.keras"  # in the folder of a run
_FACTS, _FORMAT = "rfd_tf_detector.json", 1


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A trained Fast R-CNN with all that using it takes. It computes in float32.

    The network is traced once, for pictures and proposals of any size and number.

    Args:
        model: gives normalised deltas; their means and deviations are among its weights (the published
            Caffe models have them multiplied into the weights of the last layer). One of another policy than
            float32 is copied.
        class_names: of its C classes.
        mean, std: of the trunk's channels, of RGB in [0, 1], as of `data.Preprocessing`.
        options: of detection.
        name: letters, digits, `_`, `-` and `.`; the name that it is served under.
        exif_orientation: whether it is shown encoded pictures turned as their EXIF says; boxes are in these.

    Raises:
        ValueError: on arguments that do not fit each other, or values out of range.

    Example: `open_detector("runs/detection")(image, proposals).boxes`
    """

    model: FastRCNN
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    options: DetectionOptions = dataclasses.field(default_factory=DetectionOptions)
    name: str = "fast_rcnn"
    exif_orientation: bool = True

    def __post_init__(self):
        if len(self.class_names) != self.model.num_classes:
            raise ValueError(
                f"The model tells {self.model.num_classes} classes apart. "
                f"Received: {len(self.class_names)} class_names"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "`mean` and `std` need three values, `std` positive ones. "
                f"Received: mean={self.mean}, std={self.std}"
            )
        if self.options.longest > self.model.longest_side:
            raise ValueError(
                f"`longest` must be {self.model.longest_side} pixels at most, what region pooling covers. "
                f"Received: longest={self.options.longest}"
            )
        if not self.name or not all(c.isalnum() or c in "_-." for c in self.name):
            raise ValueError(f"`name` must be of letters, digits, '_', '-' and '.'. Received: {self.name!r}")
        if any(layer.compute_dtype != "float32" for layer in self.model._flatten_layers()):
            copy = _copied(self.model)
            to_float32(copy)
            object.__setattr__(self, "model", copy)

    def __call__(self, image: np.ndarray, proposals: np.ndarray) -> Detections:
        """What is in a picture, uint8 [H, W, 3], of which boxes [P, 4] were proposed (`detection.boxes`).

        Raises:
            ValueError: on another dtype or shape, or boxes that are not finite.
        """
        image, proposals = np.asarray(image), np.asarray(proposals, "float32").reshape(-1, 4)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"`image` must be uint8 [H, W, 3]. Received: {image.dtype} {list(image.shape)}")
        if not np.isfinite(proposals).all():
            raise ValueError("`proposals` must be finite numbers")
        found = self.traced(image, proposals)
        return Detections(**{name: value.numpy() for name, value in found.items()})

    @functools.cached_property
    def traced(self):
        """`detection.detect.detect` of this detector, a `tf.function` of `image` and `proposals`."""
        signature = [
            tf.TensorSpec([None, None, 3], tf.uint8, name="image"),
            tf.TensorSpec([None, 4], tf.float32, name="proposals"),
        ]

        @tf.function(autograph=False, input_signature=signature)
        def found(image, proposals):
            return detect(self.model, image, proposals, self.mean, self.std, self.options)

        return found

    def facts(self) -> dict:
        """All but the model, as JSON has it."""
        # Left out where it is false, as in what was written before there was such a field.
        orientation = {"exif_orientation": True} if self.exif_orientation else {}
        return {
            "format": _FORMAT,
            "name": self.name,
            "class_names": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
            "options": {**dataclasses.asdict(self.options), "short_sides": list(self.options.short_sides)},
            **orientation,
        }


def save_detector(detector: Detector, path: str | os.PathLike) -> None:
    """Writes the detector as one `.keras` file with its facts inside, without an optimizer."""
    model = detector.model
    if model.compiled:  # Keras would save the optimizer's variables with it
        model = _copied(model)
    write_keras(model, Path(path), _FACTS, json.dumps(detector.facts()))


def _copied(model: FastRCNN) -> FastRCNN:
    """The same network with layers and weights of its own, without an optimizer."""
    copy = FastRCNN.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def is_detector(path: str | os.PathLike) -> bool:
    """Whether `open_detector` would take this for a detector: by what is inside, unread."""
    path = Path(path)
    if path.is_dir():
        path = path / DETECTOR_FILE
    return path.is_file() and facts_inside(path, _FACTS) is not None


def open_detector(path: str | os.PathLike) -> Detector:
    """Opens what `save_detector` wrote, or the `detector.keras` in the folder of a run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is none of a detector, or cannot be read; the message names the file.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / DETECTOR_FILE).is_file():
            raise FileNotFoundError(f"{path} holds no {DETECTOR_FILE}: the run has not finished")
        path = path / DETECTOR_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No detector at {path}")
    facts = facts_inside(path, _FACTS)
    if facts is None:
        raise ValueError(f"{path} is no file of a detector of ours: it has no {_FACTS} inside")
    model = read_keras(path)
    try:
        return _detector(model, parse_json(facts))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: no valid description of a detector ({error})") from error


def _detector(model: FastRCNN, facts: dict) -> Detector:
    if facts.pop("format") > _FORMAT:
        raise ValueError("it was written by a newer version")
    if not isinstance(model, FastRCNN):
        raise ValueError(f"its model is a {type(model).__name__}")
    options = facts.pop("options")
    options["short_sides"] = tuple(options["short_sides"])
    facts.setdefault("exif_orientation", False)
    if not isinstance(facts["exif_orientation"], bool):
        raise ValueError(f"its exif_orientation is {facts['exif_orientation']!r:.80}")
    for name in ("class_names", "mean", "std"):
        facts[name] = tuple(facts[name])
    return Detector(model, options=DetectionOptions(**options), **facts)
