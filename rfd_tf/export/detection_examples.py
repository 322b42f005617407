"""Pictures with proposals to compare a detector's forms on."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from rfd_tf.data.augmentation import decode
from rfd_tf.export.parity_pictures import Picture
from rfd_tf.proposals import SelectiveSearch


class Example(NamedTuple):
    """A picture with proposals.

    Attributes:
        name: for the report.
        encoded: the bytes of its file.
        proposals: float32 [P, 4], see `detection.boxes`.
        exif_orientation: whether these are in the picture as it is shown.
    """

    name: str
    encoded: bytes
    proposals: np.ndarray
    exif_orientation: bool = True

    @property
    def image(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return decode(tf.constant(self.encoded), self.exif_orientation).numpy()


def searched_examples(pictures: Sequence[Picture], search: SelectiveSearch | None = None) -> list[Example]:
    """The pictures with the proposals of selective search, about a second each.

    Raises:
        ImportError: without the extra `detection`.
    """
    search = search or SelectiveSearch()
    examples = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "picture")
        for name, content in pictures:
            file.write_bytes(content)
            examples.append(Example(name, content, search(file), search.exif_orientation))
    return examples
