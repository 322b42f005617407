"""A detector that `rfd export` wrote as a SavedModel."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.detection.detect import Detections
from rfd_tf.json_text import parse_json

FACTS = "detector.json"  # an asset of the SavedModel
OUTPUTS = {"boxes": "boxes", "scores": "scores", "classes": "labels"}  # and what `Detections` calls them


class SavedDetector:
    """Detections by the signatures of a SavedModel, in this process.

    Args:
        folder: of the SavedModel, such as `DIR/saved_model/1`.

    Attributes:
        facts: as of `Detector.facts`.

    Raises:
        FileNotFoundError: if there is no exported detector.
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
        """As of `Detector`."""
        return self._found("serving_default", image=tf.constant(image, tf.uint8), proposals=proposals)

    def from_file(self, encoded: bytes, proposals: np.ndarray) -> Detections:
        """In a picture's file, decoded by the model (signature `jpeg`).

        Raises:
            tf.errors.InvalidArgumentError: on what is no picture, or is damaged or refused.
        """
        return self._found("jpeg", encoded=tf.constant(encoded), proposals=proposals)

    def _found(self, signature: str, *, proposals, **picture) -> Detections:
        proposals = tf.constant(np.asarray(proposals, "float32").reshape(-1, 4))
        outputs = self._model.signatures[signature](proposals=proposals, **picture)
        return Detections(**{ours: outputs[name].numpy() for name, ours in OUTPUTS.items()})
