"""All that needs Apache Beam."""

from rfd_tf.extraction.beam_files import open_beam_files
from rfd_tf.extraction.beam_model import local_model
from rfd_tf.extraction.beam_pipeline import extract_on_beam

__all__ = ["extract_on_beam", "local_model", "open_beam_files"]
