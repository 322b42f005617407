import contextlib
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from rfd_tf.extraction.storage import Storage

_PLAIN = {"compression_type": CompressionTypes.UNCOMPRESSED}


class BeamStorage(Storage):
    """A folder in any of Beam's file systems: `gs://`, `s3://`, `hdfs://`, ..., or a path.

    Args:
        location: the folder; made if missing, where the file system has folders.
    """

    def __init__(self, location: str):
        super().__init__(location)
        if not FileSystems.exists(location):
            with contextlib.suppress(OSError):  # another worker may have made it, or there are no folders
                FileSystems.mkdirs(location)

    def names(self) -> set[str]:
        found = FileSystems.match([FileSystems.join(self.location, "*")])[0].metadata_list
        names = {FileSystems.split(metadata.path)[1] for metadata in found}
        return {name for name in names if name and not name.startswith(".")}

    def open(self, name: str) -> BinaryIO:
        return open_file(FileSystems.join(self.location, name))

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        temporary = FileSystems.join(self.location, f".{uuid.uuid4().hex}.partial")
        try:
            with FileSystems.create(temporary, **_PLAIN) as file:
                yield file
            FileSystems.rename([temporary], [FileSystems.join(self.location, name)])
        except BaseException:
            with contextlib.suppress(Exception):  # the first error counts
                FileSystems.delete([temporary])
            raise

    def exists(self, name: str) -> bool:
        """Whether there is such a file; cheaper than `names` in a large folder."""
        return FileSystems.exists(FileSystems.join(self.location, name))

    def delete(self, names: list[str]) -> None:
        """Remove files."""
        FileSystems.delete([FileSystems.join(self.location, name) for name in names])


def open_file(path: str) -> BinaryIO:
    """A file as it is, whatever its ending; FileNotFoundError where there is none."""
    try:
        return FileSystems.open(path, **_PLAIN)
    except OSError as error:
        if not FileSystems.exists(path):
            raise FileNotFoundError(f"{path}; No such file or directory") from error
        raise
