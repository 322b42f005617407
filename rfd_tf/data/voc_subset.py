from collections.abc import Sequence

import numpy as np

from rfd_tf.data.subset import Subset
from rfd_tf.data.voc import multi_label_targets


class VocSubset(Subset):
    """Chosen pictures of a VOC source, with what it has of them: `names`, `annotations`, `targets`.

    Args:
        source, indices: as of `Subset`.
    """

    def __init__(self, source, indices: Sequence[int]):
        super().__init__(source, indices)
        self.names = tuple(source.names[row] for row in self.indices)
        self.annotations = tuple(source.annotations[row] for row in self.indices)

    @property
    def targets(self) -> np.ndarray:
        """As of `VocDevkit`."""
        return multi_label_targets(self.annotations, len(self.class_names))
