"""Feature models in every form behind one interface, and features of whole collections of images."""

from rfd_tf.features.extract import ExtractionStopped, ExtractOptions, extract, load_features
from rfd_tf.features.feature_model import FeatureModel, ModelInfo
from rfd_tf.features.keras_feature_model import KerasFeatureModel, keras_feature_model, open_keras, save_keras
from rfd_tf.features.open_feature_model import open_feature_model
from rfd_tf.features.store import ExtractionError

__all__ = [
    "ExtractOptions",
    "ExtractionError",
    "ExtractionStopped",
    "FeatureModel",
    "KerasFeatureModel",
    "ModelInfo",
    "extract",
    "keras_feature_model",
    "load_features",
    "open_feature_model",
    "open_keras",
    "save_keras",
]
