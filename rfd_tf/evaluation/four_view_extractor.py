import dataclasses
import functools

import numpy as np

from rfd_tf.extractors import FeatureExtractor
from rfd_tf.extractors.model_info import NORMALIZED
from rfd_tf.rotations import NUM_ROTATIONS


class FourViewExtractor(FeatureExtractor):
    """What a model says of an image's four views: each output becomes [B, 4, ...].

    Args:
        extractor: the model. It is not closed with this one.
    """

    def __init__(self, extractor: FeatureExtractor):
        outputs = {name: (NUM_ROTATIONS, *shape) for name, shape in extractor.info.outputs.items()}
        info = dataclasses.replace(extractor.info, outputs=outputs, input=NORMALIZED)
        super().__init__(info, extractor.location)
        self.extractor = extractor

    @functools.cached_property
    def fingerprint(self) -> str:
        return f"four views of {self.extractor.fingerprint}"

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        views = [
            self.extractor(np.ascontiguousarray(np.rot90(images, turns, axes=(1, 2))), names)
            for turns in range(NUM_ROTATIONS)
        ]
        return {name: np.stack([view[name] for view in views], axis=1) for name in names}
