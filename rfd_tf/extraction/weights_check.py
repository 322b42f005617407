"""Telling whether a model still gives the features it gave."""

from collections.abc import Sequence

import numpy as np

from rfd_tf.extractors import FeatureExtractor
from rfd_tf.json_text import fits

_VALUES = 8
_TOLERANCE = 1e-2  # relative: devices and runtimes differ by less, other weights by more


def check_values(extractor: FeatureExtractor, outputs: Sequence[str]) -> dict[str, list[float]]:
    """A few values of each output for a fixed picture; ValueError where they are not finite."""
    rows, columns, _ = np.indices(extractor.info.image_shape)
    channel = np.arange(3)
    pixels = (rows * (3 + channel) + columns * (5 - channel) + 40 * channel) % 256
    features = extractor(extractor.info.normalize(pixels.astype("uint8"))[None], outputs)
    found = {}
    for name, value in features.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{extractor.location}: its output {name!r} is not finite for a plain picture")
        flat = value.ravel()
        picked = flat[np.linspace(0, len(flat) - 1, _VALUES).astype("int64")]
        found[name] = [float(np.sqrt((flat.astype("float64") ** 2).mean())), *map(float, picked)]
    return found


def close(here: dict, there: dict | None) -> bool:
    """Whether `check_values` are of the same weights; each begins with the size of the output."""
    if not fits(there, dict[str, list[float]]) or here.keys() != there.keys():
        return False
    return all(
        len(there[name]) == len(values)
        and np.allclose(there[name], values, rtol=0, atol=_TOLERANCE * max(values[0], 1e-12))
        for name, values in here.items()
    )
