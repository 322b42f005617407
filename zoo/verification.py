"""Does a network compute what its source computes?"""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from rfd_tf.precision import computing_in_float32
from zoo.errors import VerificationError
from zoo.reference import reference_features, reference_ops

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Difference:
    """Of one feature: the largest absolute difference, and the reference's largest absolute value."""

    max_abs_difference: float
    max_abs_value: float

    def within(self, tolerance: float) -> bool:
        """Absolute up to values of 1, relative to the largest value beyond. NaN is never within."""
        return self.max_abs_difference <= tolerance * max(1.0, self.max_abs_value)


def random_images(model: keras.Model, count: int = 2, seed: int = 0) -> np.ndarray:
    """Unit-normal images of the model's input shape, float32 [count, H, W, C]; unknown sizes become 96."""
    shape = [size or 96 for size in model.inputs[0].shape[1:]]
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype("float32")


def outputs(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """The model's outputs by name, in inference and in float32, also those of a mixed-precision model."""
    with computing_in_float32(model):
        results = model(images, training=False)
    if not isinstance(results, Mapping):
        results = {"output": results}
    return {name: np.asarray(keras.ops.convert_to_numpy(value)) for name, value in results.items()}


def compare(
    actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float = TOLERANCE
) -> dict[str, Difference]:
    """The differences per name, for every name of `actual`.

    Raises:
        VerificationError: if a name or shape is not as expected, or a difference is above the tolerance.
    """
    differences = {}
    for name, array in actual.items():
        if name not in expected:
            raise VerificationError(f"The source has nothing to compare the output {name!r} with")
        reference = expected[name]
        if array.shape != reference.shape:
            raise VerificationError(f"{name!r} has shape {array.shape}, its source {reference.shape}")
        gap = np.max(np.abs(array.astype("float64") - reference))
        differences[name] = Difference(float(gap), float(np.max(np.abs(reference))))
    wrong = {name: d for name, d in differences.items() if not d.within(tolerance)}
    if wrong:
        listed = ", ".join(
            f"{name} by {d.max_abs_difference:.3g} of {d.max_abs_value:.3g}" for name, d in wrong.items()
        )
        raise VerificationError(f"The network differs from its source by more than {tolerance:g}: {listed}")
    return differences


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
    return compare(actual, expected, tolerance), ops.name
