"""The feature maps that a model comes with."""

from collections.abc import Sequence

from rfd_tf.extractors.model_info import ModelInfo
from rfd_tf.models.feature_model import RESERVED


def check_feature_maps(info: ModelInfo, feature_maps: Sequence[str] | None, location: str) -> None:
    """Raises ValueError, naming `location`, where a model does not give one of `feature_maps`."""
    maps = [name for name in info.outputs if name not in RESERVED]
    if unknown := [name for name in feature_maps or () if name not in maps]:
        raise ValueError(f"{location} has no feature map {unknown[0]!r}; it has: {', '.join(maps) or 'none'}")
