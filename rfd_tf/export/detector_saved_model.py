"""A detector as a SavedModel that takes a picture's pixels or its file, and proposals."""

import json
import os

import tensorflow as tf

from rfd_tf.data.augmentation import decode
from rfd_tf.data.picture_checks import picture_problem
from rfd_tf.detection.detector import Detector
from rfd_tf.detection.saved_detector import FACTS, OUTPUTS
from rfd_tf.export.saved_model import ABOUT, JPEG, save_functions


def write_detector_saved_model(detector: Detector, folder: str | os.PathLike) -> None:
    """Writes a SavedModel with `assets/detector.json` (`Detector.facts`) and these signatures:

        serving_default: `image`, uint8 [H, W, 3], and `proposals`, float32 [P, 4], to `boxes`, float32
            [n, 4], `scores`, float32 [n], `classes`, int64 [n], from 0, and `count`, int32, n;
        jpeg: the same, but for `encoded`, a string, the bytes of a picture's file, instead of `image`;
        about: `ignored`, string [B], to `json`, string [B], each the text of the facts.

    Scaling, sharing of regions, and the suppression of what is found twice are within.

    Args:
        detector: to be written.
        folder: to be made, such as `DIR/saved_model/1`; it must not hold anything.

    Raises:
        FileExistsError: if it does.
    """
    facts = json.dumps(detector.facts())
    save_functions(folder, FACTS, facts, detector.model, _signatures(detector, facts))


def _signatures(detector: Detector, facts: str) -> dict:
    image = tf.TensorSpec([None, None, 3], tf.uint8, name="image")
    proposals = tf.TensorSpec([None, 4], tf.float32, name="proposals")
    encoded, ignored = (
        tf.TensorSpec([], tf.string, name="encoded"),
        tf.TensorSpec([None], tf.string, "ignored"),
    )

    def found(pixels, boxes):
        pixels, boxes = tf.ensure_shape(pixels, image.shape), tf.ensure_shape(boxes, proposals.shape)
        outputs = detector.traced(pixels, boxes)
        named = {name: outputs[ours] for name, ours in OUTPUTS.items()}
        return {**named, "count": tf.size(outputs["scores"])}

    @tf.function(autograph=False, input_signature=[image, proposals])
    def serving_default(image, proposals):
        return found(image, proposals)

    @tf.function(autograph=False, input_signature=[encoded, proposals])
    def jpeg(encoded, proposals):
        encoded = tf.ensure_shape(encoded, [])  # servers check types only
        problem = picture_problem(encoded)
        with tf.control_dependencies([tf.debugging.Assert(problem == "", [problem])]):
            return found(decode(tf.identity(encoded), detector.exif_orientation), proposals)

    @tf.function(autograph=False, input_signature=[ignored])
    def about(ignored):
        return {"json": tf.fill(tf.shape(ignored), facts)}

    return {"serving_default": serving_default, JPEG: jpeg, ABOUT: about}
