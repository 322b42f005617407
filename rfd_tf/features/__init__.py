"""Feature models in every form behind one interface, and features of whole collections of images."""

from rfd_tf.features.extract import ExtractionStopped, extract, load_features
from rfd_tf.features.extractor import FeatureExtractor, ModelInfo
from rfd_tf.features.images import open_images
from rfd_tf.features.keras_extractor import KerasExtractor, keras_extractor, open_keras, save_keras
from rfd_tf.features.open_extractor import open_extractor
from rfd_tf.features.store import ExtractionError

__all__ = [
    "ExtractionError",
    "ExtractionStopped",
    "FeatureExtractor",
    "KerasExtractor",
    "ModelInfo",
    "extract",
    "keras_extractor",
    "load_features",
    "open_extractor",
    "open_images",
    "open_keras",
    "save_keras",
]
