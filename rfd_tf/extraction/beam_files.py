"""Pictures in Beam's file systems."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems

from rfd_tf import data
from rfd_tf.data.image_files import DECODABLE, has_picture_ending, kind_of_file
from rfd_tf.data.image_list import parse_image_list
from rfd_tf.extraction.beam_storage import open_file

LIST_ENDINGS = (".txt", ".csv", ".tsv")


class BeamFiles(data.Source):
    """Picture files below a folder of any of Beam's file systems.

    Args:
        root: the folder.
        files: N paths relative to it, with `/`.
        labels: int64 of shape [N] or None.
        class_names: one name per class or None.
    """

    def __init__(
        self,
        root: str,
        files: Sequence[str],
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] | None = None,
    ):
        super().__init__(root, labels, class_names)
        self.root = root
        self.files = tuple(files)

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, index: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(self._read, [index], tf.string, stateful=False), [])

    def describe(self, index: int) -> str:
        return FileSystems.join(self.root, self.files[index])

    def _read(self, index: int) -> bytes:
        with open_file(self.describe(int(index))) as file:
            return file.read()


def open_beam_files(location: str, root: str = "") -> BeamFiles:
    """`extraction.open_images` for a folder or list that has an address such as `gs://BUCKET/FOLDER`.

    Args:
        location: a list if it ends in `.txt`, `.csv` or `.tsv`, else a folder.
        root: of a list, by default its folder.

    Raises:
        FileNotFoundError: if there is nothing.
        ValueError: on a malformed list.
    """
    if location.lower().endswith(LIST_ENDINGS):
        with open_file(location) as file:
            text = file.read().decode("utf-8-sig", "surrogateescape")
        files, labels = parse_image_list(text, location, every_class=False)
        return BeamFiles(root or FileSystems.split(location)[0], files, labels)
    root = location.rstrip("/")
    found = FileSystems.match([f"{root}/**"])[0].metadata_list
    paths = [metadata.path.removeprefix(root).lstrip("/") for metadata in found]
    others = [path for path in paths if not has_picture_ending(path)]
    paths = [path for path in paths if has_picture_ending(path)]
    if not paths:
        raise FileNotFoundError(f"{location} holds no picture (a file that ends in {', '.join(DECODABLE)})")
    source = BeamFiles(root, *_in_order(paths))
    source.left_out = Counter(kind_of_file(path.rpartition("/")[2]) for path in others)
    return source


def _in_order(paths: list[str]) -> tuple[list[str], np.ndarray | None, tuple[str, ...] | None]:
    """Files, labels and class names, as `ImageFolder` or `FlatFolder` would have them."""
    classes = sorted({path.split("/")[0] for path in paths if "/" in path})
    if len(classes) < 2 or any("/" not in path for path in paths):
        return sorted(paths), None, None
    paths = sorted(paths, key=lambda path: (path.split("/")[0], *path.rsplit("/", 1)))
    numbers = {name: number for number, name in enumerate(classes)}
    return paths, np.asarray([numbers[path.split("/")[0]] for path in paths]), tuple(classes)
