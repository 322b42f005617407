"""Models that are kept in Beam's file systems."""

import os
import shutil
import tempfile

from apache_beam.io.filesystems import FileSystems

from rfd_tf.extraction.beam_storage import open_file
from rfd_tf.extractors.open_extractor import SERVING_SCHEMES


def local_model(location: str) -> str:
    """`location`, or, where it is an address of a file system, a copy of that file or folder on this machine.

    Raises:
        FileNotFoundError: if there is nothing.
    """
    if "://" not in location or location.startswith(SERVING_SCHEMES):
        return location
    location = location.rstrip("/")
    folder = tempfile.mkdtemp(prefix="rfd_model_")
    target = os.path.join(folder, location.rsplit("/", 1)[1])
    below = FileSystems.match([f"{location}/**"])[0].metadata_list
    for path in [metadata.path for metadata in below] or [location]:
        copy = target + path.removeprefix(location)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        with open_file(path) as source, open(copy, "wb") as file:
            shutil.copyfileobj(source, file)
    return target
