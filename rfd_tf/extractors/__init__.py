"""Feature models in every form behind one interface."""

from rfd_tf.extractors.extractor import FeatureExtractor
from rfd_tf.extractors.keras_extractor import KerasExtractor, keras_extractor, open_keras, save_keras
from rfd_tf.extractors.model_info import ModelInfo
from rfd_tf.extractors.open_extractor import open_extractor

__all__ = [
    "FeatureExtractor",
    "KerasExtractor",
    "ModelInfo",
    "keras_extractor",
    "open_extractor",
    "open_keras",
    "save_keras",
]
