"""A trained detector: what it finds in an image, in TensorFlow operations, and its file."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.detection import boxes as box_functions
from rfd_tf.detection.boxes import scale_factors, scaled_image
from rfd_tf.detection.fast_rcnn import FastRCNN
from rfd_tf.files import parse_json
from rfd_tf.keras_internals import all_layers
from rfd_tf.layers.roi_max_pool import rounded_cells
from rfd_tf.models.keras_file import facts_inside, read_keras, write_keras
from rfd_tf.precision import to_float32

_BEST_SIDE = 224  # of a scaled proposal, in pixels: what the trunk was pretrained on
_FARTHEST_CELL = 2**14


@dataclasses.dataclass(frozen=True)
class DetectionOptions:
    """How detections are made from scores and boxes.

    Args:
        short_sides: of the image as the network sees it, in pixels; 600 in Fast R-CNN. Of several scales,
            each proposal is scored at that which brings its area nearest to 224 x 224 pixels.
        longest: limit of its long side, which takes precedence.
        score: detections of lower probability are dropped, in [0, 1); 0 drops none.
        nms_iou: of two detections of one class that overlap by more, the one of lower score is dropped.
        most: detections kept in an image, the likeliest of all classes; 0 keeps all.
        most_of_class: only so many of each class, the likeliest, take part in the suppression of overlapping
            ones; 0 for all.

    Raises:
        ValueError: on a number out of range.

    Reference: Girshick, "Fast R-CNN", ICCV 2015, section 2.4; He et al., "Spatial Pyramid Pooling", ECCV 2014
    (the choice of the scale).
    """

    short_sides: tuple[int, ...] = (600,)
    longest: int = 1000
    score: float = 0.05
    nms_iou: float = 0.3
    most: int = 100
    most_of_class: int = 0

    def __post_init__(self):
        if not self.short_sides or min(self.short_sides) < 1:
            raise ValueError(
                f"`short_sides` must be at least 1. Received: short_sides={tuple(self.short_sides)}"
            )
        for name, least in (("longest", 1), ("most", 0), ("most_of_class", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}. Received: {name}={getattr(self, name)}")
        for name in ("score", "nms_iou"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Detections:
    """The n detections in an image, by falling score.

    Attributes:
        boxes: float32 [n, 4], within the image; see `detection.boxes`.
        scores: float32 [n], probabilities of the class.
        labels: int64 [n], classes of the data, from 0.
        candidates: where `DetectionOptions.most_of_class` limits them, float32 [C, m]: the scores of each
            class, falling, before those that overlap are dropped.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    candidates: np.ndarray | None = None


def distinct_regions(scaled: tf.Tensor, stride: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Regions that cover the same cells, once: the row of the first, and for every region which it shares.

    Args:
        scaled: [P, 4], in pixels of the network's input.
        stride: pixels per cell.
    """
    cells = tf.cast(rounded_cells(scaled, stride), tf.int64)
    # Beyond the map all cells are alike. One key for all four, since GPUs have no `unique` of rows.
    cells = tf.clip_by_value(cells, -_FARTHEST_CELL, _FARTHEST_CELL - 1) + _FARTHEST_CELL
    places = (2 * _FARTHEST_CELL) ** np.arange(4, dtype="int64")
    keys, shared = tf.unique(tf.reduce_sum(cells * places, axis=1))
    rows = tf.range(tf.size(shared))
    return tf.math.unsorted_segment_min(rows, shared, tf.size(keys)), shared


def select(
    proposals: tf.Tensor,
    probabilities: tf.Tensor,
    deltas: tf.Tensor,
    height,
    width,
    options: DetectionOptions,
    exclusive: bool = False,
) -> dict[str, tf.Tensor]:
    """Detections of proposals [P, 4], given probabilities [P, C + 1] and deltas [P, C + 1, 4] by class.

    `exclusive` says how wide boxes are for deltas, see `detection.boxes`. Equal scores are ordered by class.

    Returns:
        Dict of `boxes`, `scores`, `labels` and, if limited, `candidates`, as in `Detections`.
    """
    proposals = tf.cast(proposals, tf.float32)
    scores, deltas = probabilities[:, 1:], tf.cast(deltas[:, 1:], tf.float32)
    classes = scores.shape[1]
    repeated = tf.repeat(proposals, classes, axis=0)
    moved = box_functions.decode(repeated, tf.reshape(deltas, [-1, 4]), exclusive)
    moved = box_functions.clip(moved, tf.cast(height, tf.float32), tf.cast(width, tf.float32))
    moved = tf.reshape(moved, [-1, classes, 4])

    limits = [limit for limit in (options.most, options.most_of_class) if limit]
    size = min(limits) if limits else tf.shape(proposals)[0]

    def kept(label: tf.Tensor) -> tf.Tensor:
        own = scores[:, label]
        likely = tf.where(own >= options.score)[:, 0]
        if options.most_of_class:
            order = tf.argsort(tf.gather(own, likely), direction="DESCENDING", stable=True)
            likely = tf.gather(likely, order[: options.most_of_class])
        beyond = tf.gather(moved[:, label], likely) + [0.0, 0.0, 1.0, 1.0]
        best = tf.image.non_max_suppression(
            tf.gather(beyond, [1, 0, 3, 2], axis=1), tf.gather(own, likely), size, options.nms_iou
        )
        rows = tf.gather(likely, best)
        return tf.pad(rows, [[0, size - tf.size(rows)]], constant_values=-1)

    signature = tf.TensorSpec([min(limits) if limits else None], tf.int64)
    rows = tf.map_fn(kept, tf.range(classes), fn_output_signature=signature)
    found = tf.where(rows >= 0)  # by class, then by score
    pairs = tf.stack([tf.gather_nd(rows, found), found[:, 0]], axis=1)
    likely = tf.gather_nd(scores, pairs)
    order = tf.argsort(likely, direction="DESCENDING", stable=True)[: options.most or None]
    pairs = tf.gather(pairs, order)
    result = {
        "boxes": tf.gather_nd(moved, pairs),
        "scores": tf.gather(likely, order),
        "labels": pairs[:, 1],
    }
    if options.most_of_class:
        falling = tf.sort(scores, axis=0, direction="DESCENDING")[: options.most_of_class]
        result["candidates"] = tf.transpose(falling)
    return result


DETECTOR_FILE = "detector.keras"  # in the folder of a run
_FACTS, _FORMAT = "rfd_tf_detector.json", 1


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A trained Fast R-CNN with everything needed to use it. It computes in float32.

    The network is traced once, for images and proposals of any size and number.

    Args:
        model: predicts normalised deltas; their means and deviations are among its weights (the published
            Caffe models have them multiplied into the weights of the last layer). If its policy is not
            float32, it is copied.
        class_names: of its C classes.
        mean, std: of the trunk's channels, of RGB in [0, 1], as in `data.Preprocessing`.
        options: of detection.
        name: letters, digits, `_`, `-` and `.`; the name that it is served under.
        exif_orientation: whether encoded images are turned as their EXIF says; boxes refer to turned ones.

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
                f"The model has {self.model.num_classes} classes. "
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
        if any(layer.compute_dtype != "float32" for layer in all_layers(self.model)):
            copy = _copied(self.model)
            to_float32(copy)
            object.__setattr__(self, "model", copy)

    def __call__(self, image: np.ndarray, proposals: np.ndarray) -> Detections:
        """The objects in an image, uint8 [H, W, 3], given proposed boxes [P, 4] (`detection.boxes`).

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
        """A `tf.function` of `image` and `proposals` that returns what `select` does."""
        signature = [
            tf.TensorSpec([None, None, 3], tf.uint8, name="image"),
            tf.TensorSpec([None, 4], tf.float32, name="proposals"),
        ]

        @tf.function(autograph=False, input_signature=signature)
        def detect(image, proposals):
            options = self.options
            height, width = tf.unstack(tf.shape(image)[:2])
            factors = scale_factors(height, width, options.short_sides, options.longest)
            areas = tf.reduce_prod(proposals[:, 2:] - proposals[:, :2] + 1, axis=1)
            scale = tf.argmin(tf.abs(areas[:, None] * factors**2 - _BEST_SIDE**2), axis=1)
            rows, parts = [], []
            for place in range(len(options.short_sides)):
                own = tf.where(scale == place)[:, 0]
                rows.append(tf.cast(own, tf.int32))
                parts.append(self._scored(image, tf.gather(proposals, own), factors[place]))
            probabilities, deltas = (tf.dynamic_stitch(rows, part) for part in zip(*parts, strict=True))
            exclusive = self.model.exclusive_deltas
            return select(proposals, probabilities, deltas, height, width, options, exclusive)

        return detect

    def _scored(self, image: tf.Tensor, proposals: tf.Tensor, factor) -> tuple[tf.Tensor, tf.Tensor]:
        """Probabilities [P, C + 1] and deltas [P, C + 1, 4] of proposals [P, 4] at one scale."""
        model, classes = self.model, self.model.num_classes + 1

        def found():
            scaled = proposals * factor
            distinct, shared = distinct_regions(scaled, model.pool.stride)
            inputs = {
                "image": scaled_image(image, factor, self.mean, self.std)[None],
                "regions": tf.gather(scaled, distinct)[None],
            }
            outputs = model(inputs, training=False)
            # Proposals on the same cells share the network's answer, but each moves its own box by it.
            probabilities = tf.nn.softmax(tf.cast(outputs["class_logits"][0], tf.float32))
            deltas = model.denormalized(tf.cast(outputs["deltas"][0], tf.float32))
            return tf.gather(probabilities, shared), tf.gather(deltas, shared)

        def nothing():
            return tf.zeros([0, classes]), tf.zeros([0, classes, 4])

        probabilities, deltas = tf.cond(tf.shape(proposals)[0] > 0, found, nothing)
        return tf.ensure_shape(probabilities, [None, classes]), tf.ensure_shape(deltas, [None, classes, 4])

    def facts(self) -> dict:
        """Everything but the model, as JSON."""
        # Left out if false, as in files from before this field existed.
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
    # Keras would save the optimizer's variables with a compiled model.
    model = _copied(detector.model) if detector.model.compiled else detector.model
    write_keras(model, Path(path), _FACTS, json.dumps(detector.facts()))


def _copied(model: FastRCNN) -> FastRCNN:
    """The same network with layers and weights of its own, without an optimizer."""
    copy = FastRCNN.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def is_detector(path: str | os.PathLike) -> bool:
    """Whether this is a detector's file or a run's folder with one, judged without loading it."""
    path = Path(path)
    if path.is_dir():
        path = path / DETECTOR_FILE
    return path.is_file() and facts_inside(path, _FACTS) is not None


def open_detector(path: str | os.PathLike) -> Detector:
    """Opens what `save_detector` wrote, or the `detector.keras` in the folder of a run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a detector, or cannot be read; the message names the file.
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
        raise ValueError(f"{path} is not a detector of ours: it has no {_FACTS} inside")
    model = read_keras(path)
    try:
        fields = parse_json(facts)
        if fields.pop("format") > _FORMAT:
            raise ValueError("it was written by a newer version")
        if not isinstance(model, FastRCNN):
            raise ValueError(f"its model is a {type(model).__name__}")
        options = fields.pop("options")
        options["short_sides"] = tuple(options["short_sides"])
        fields.setdefault("exif_orientation", False)
        if not isinstance(fields["exif_orientation"], bool):
            raise ValueError(f"its exif_orientation is {fields['exif_orientation']!r:.80}")
        for name in ("class_names", "mean", "std"):
            fields[name] = tuple(fields[name])
        return Detector(model, options=DetectionOptions(**options), **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: no valid description of a detector ({error})") from error


FACTS = "detector.json"  # in the SavedModel's assets
OUTPUTS = {"boxes": "boxes", "scores": "scores", "classes": "labels"}  # to the names in `Detections`


class SavedDetector:
    """An exported detector, run in this process by the signatures of its SavedModel.

    Args:
        folder: of the SavedModel, such as `DIR/saved_model/1`.

    Attributes:
        facts: as `Detector.facts` returns them.

    Raises:
        FileNotFoundError: if the folder holds no exported detector.
    """

    def __init__(self, folder: str | os.PathLike):
        facts = Path(folder, "assets", FACTS)
        if not facts.is_file():
            raise FileNotFoundError(f"{folder} holds no exported detector: there is no {facts}")
        try:
            self.facts = parse_json(facts.read_bytes())
        except ValueError as error:
            raise ValueError(f"{facts}: no valid description of a detector ({error})") from error
        self._model = tf.saved_model.load(str(folder))  # signatures do not keep it alive

    def __call__(self, image: np.ndarray, proposals: np.ndarray) -> Detections:
        """As `Detector.__call__`."""
        return self._found("serving_default", image=tf.constant(image, tf.uint8), proposals=proposals)

    def from_file(self, encoded: bytes, proposals: np.ndarray) -> Detections:
        """The same for an image file, decoded by the model (signature `jpeg`).

        Raises:
            tf.errors.InvalidArgumentError: on a file that is not an image, or is damaged or refused.
        """
        return self._found("jpeg", encoded=tf.constant(encoded), proposals=proposals)

    def _found(self, signature: str, *, proposals, **image) -> Detections:
        proposals = tf.constant(np.asarray(proposals, "float32").reshape(-1, 4))
        outputs = self._model.signatures[signature](proposals=proposals, **image)
        return Detections(**{ours: outputs[name].numpy() for name, ours in OUTPUTS.items()})
