"""Does a network compute what its source computes?"""

from collections.abc import Mapping

import keras
import numpy as np

from rfd_tf.models.parity import TOLERANCE, Difference, compare, outputs, random_images
from zoo.errors import VerificationError
from zoo.reference import reference_features, reference_ops


def verify(
    model: keras.Model,
    architecture: str,
    source: str,
    state: Mapping[str, np.ndarray],
    *,
    tolerance: float = TOLERANCE,
    backend: str | None = None,
) -> tuple[dict[str, Difference], str]:
    """Compare `model` with an independent forward pass of its source's arrays on random images.

    Args:
        model: the converted network.
        architecture: its name in `zoo.architectures`.
        source: `torch` or `caffe`: the naming of `state`.
        state: the source's arrays.
        tolerance: absolute up to values of 1, relative beyond.
        backend: `torch` or `numpy`; by default PyTorch where it is installed.

    Returns:
        The differences per output, and the name of what they were measured against.

    Raises:
        VerificationError: above the tolerance.
    """
    images = random_images(model)
    ops = reference_ops(backend)
    actual = outputs(model, images)
    expected = reference_features(architecture, source, state, images, ops, heads=actual.keys())
    return compare(actual, expected, tolerance, VerificationError), ops.name
