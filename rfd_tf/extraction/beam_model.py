"""Models that are kept in Beam's file systems."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from rfd_tf.extraction.beam_storage import open_file
from rfd_tf.extractors.open_extractor import SERVING_SCHEMES


@contextlib.contextmanager
def local_model(location: str) -> Iterator[str]:
    """`location`, or, where it is an address of a file system, a copy of that file or folder for the block.

    Raises:
        FileNotFoundError: if there is nothing.
    """
    if "://" not in location or location.startswith(SERVING_SCHEMES):
        yield location
        return
    location = location.rstrip("/")
    below = FileSystems.match([f"{location}/**"])[0].metadata_list
    with tempfile.TemporaryDirectory(prefix="rfd_model_") as folder:
        target = os.path.join(folder, location.rsplit("/", 1)[1])
        for path in [metadata.path for metadata in below] or [location]:
            copy = target + path.removeprefix(location)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            with open_file(path) as source, open(copy, "wb") as file:
                shutil.copyfileobj(source, file)
        yield target
