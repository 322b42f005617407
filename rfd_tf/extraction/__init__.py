"""Features of whole collections of pictures, in shards that other programs read. See `extract`."""

from rfd_tf.extraction.extract import ExtractionStopped, extract
from rfd_tf.extraction.load_features import load_features
from rfd_tf.extraction.open_images import open_images
from rfd_tf.extraction.settings import ExtractionError

__all__ = ["ExtractionError", "ExtractionStopped", "extract", "load_features", "open_images"]
