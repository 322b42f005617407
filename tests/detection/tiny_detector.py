"""A detector of one convolution, whose random weights find something."""

import keras
import numpy as np

from rfd_tf.detection.detector import DetectionOptions, Detector
from rfd_tf.detection.fast_rcnn import FastRCNN
from rfd_tf.layers import RoIMaxPool

OPTIONS = DetectionOptions((120,), longest=150, score=0.2, nms_iou=0.5, most=30)
CLASSES = ("cat", "dog", "sheep")


def tiny_model(seed: int = 0) -> FastRCNN:
    keras.utils.set_random_seed(seed)
    images = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(4, 3, 8, padding="same", activation="relu")(images)
    model = FastRCNN(keras.Model(images, maps), 3, pool=RoIMaxPool(2, 8), dense_width=8)
    for layer in model.head.layers:  # the published deviations leave nothing of so few inputs
        if isinstance(layer, keras.layers.Dense):
            layer.kernel.assign(keras.initializers.GlorotUniform(seed=1)(layer.kernel.shape) * 2)
    model.set_delta_statistics(np.full((4, 4), 0.01), np.full((4, 4), 0.1))
    return model


def tiny_detector(options: DetectionOptions = OPTIONS, seed: int = 0) -> Detector:
    return Detector(tiny_model(seed), CLASSES, (0.5, 0.4, 0.3), (0.5, 0.5, 0.6), options)
